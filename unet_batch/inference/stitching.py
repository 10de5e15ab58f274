"""Stitching: the sums that several Sweeps hand out for a Seam, to the Head's planes.

A Ray task.
"""

from __future__ import annotations

import time
from time import perf_counter

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from unet_batch.errors import UnetBatchError
from unet_batch.inference.head import Head
from unet_batch.inference.reading import IO_CPUS
from unet_batch.inference.writing import Done


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
    labels.
    """
    started = perf_counter()
    total = torch.from_numpy(sums_czyx[0].copy())
    for sums in sums_czyx[1:]:
        total += torch.from_numpy(sums.copy())
    try:
        planes = head.label_values(head.planes(total).numpy())
    except UnetBatchError as error:
        return Done(perf_counter() - started, 0, {"": str(error)}), None
    return Done(perf_counter() - started, total.nbytes, {}), planes
