"""Stitching: the sums that several Sweeps hand out for a Seam, to labels, as a Ray task."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from unet_batch.errors import UnetBatchError
from unet_batch.inference.reading import IO_CPUS
from unet_batch.inference.sums import class_indices
from unet_batch.inference.writing import Done


@ray.remote(num_cpus=IO_CPUS, num_returns=2, max_retries=3)
def stitch(
    values: NDArray[np.unsignedinteger], *sums_czyx: NDArray[np.float32]
) -> tuple[Done, NDArray[np.unsignedinteger] | None]:
    """Labels of a Seam: the Sweeps' sums added in the order given, then the largest class.

    `values` are the label values of the classes. The order is the Sweeps', never that of
    arrival, so the same sums always give the same labels.
    """
    started = perf_counter()
    total = torch.from_numpy(sums_czyx[0].copy())
    for sums in sums_czyx[1:]:
        total += torch.from_numpy(sums.copy())
    try:
        labels = values[class_indices(total).numpy()]
    except UnetBatchError as error:
        return Done(perf_counter() - started, 0, {"": str(error)}), None
    return Done(perf_counter() - started, total.nbytes, {}), labels
