"""Stitching: the sums that several Sweeps hand out for a Seam, to the Head's planes.

A Ray task.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from unet_batch.errors import UnetBatchError
from unet_batch.inference.head import Head
from unet_batch.inference.reading import IO_CPUS
from unet_batch.inference.shared_pages import let_go_of_shared_pages
from unet_batch.inference.writing import Done
from unet_batch.tiling.box import Box


@ray.remote(num_cpus=IO_CPUS, max_retries=0)
def prepare_stitcher() -> None:
    """Begin a worker process that has torch, or give it to one; importing it takes seconds."""
    time.sleep(0.2)  # so that those who are begun together do not share one process


@ray.remote(num_cpus=IO_CPUS, num_returns=2, max_retries=3)
def stitch(
    head: Head, *sums_czyx: NDArray[np.float32]
) -> tuple[Done, NDArray[np.unsignedinteger] | None]:
    """Planes (p, z, y, x) of a Seam: the Sweeps' sums added in the order given, then the Head.

    The order is the Sweeps', never that of arrival, so the same sums always give the same
    labels. They are added and read out piece by piece: beside the planes a stitcher holds little
    more than what it was given.
    """
    started = perf_counter()
    let_go_of_shared_pages()
    whole = Box.from_shape(sums_czyx[0].shape[1:])
    planes = head.room(whole.shape, torch.device("cpu"))
    try:
        for part in head.pieces(whole):
            total = _added([sums[:, *part.slices] for sums in sums_czyx])
            planes[:, *part.slices] = head.planes(total)
    except UnetBatchError as error:
        return Done(perf_counter() - started, 0, {"": str(error)}), None
    seconds = perf_counter() - started
    return Done(seconds, sums_czyx[0].nbytes, {}), head.label_values(planes.numpy())


def _added(sums_czyx: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """The sum of arrays, which are not written to, from the first to the last."""
    total = sums_czyx[0].copy()
    with np.errstate(invalid="ignore", over="ignore"):  # the Head names what is not finite
        for sums in sums_czyx[1:]:
            total += sums
    return torch.from_numpy(total)
