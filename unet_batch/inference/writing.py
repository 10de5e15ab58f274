"""Writing: labels to whole Shards, and Labels to their readers, as Ray tasks. One writer a Shard.

Every task can run twice to the same bytes, so Ray may retry it wherever a worker dies. The
module knows no torch: its workers must be ready in a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from unet_batch.errors import UnetBatchError
from unet_batch.inference.reading import IO_CPUS
from unet_batch.planning.volume_info import Json
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.tiling.box import Box

LabelRef = tuple[Box, "ray.ObjectRef[Any]"]
"""A cell and the reference to its labels (z, y, x)."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a task did: seconds, bytes, and for each Volume that failed the reason."""

    seconds: float
    num_bytes: int
    failures: dict[str, str]


@ray.remote(num_cpus=IO_CPUS, max_retries=3)
def write_regions(work: Sequence[tuple[LabelsWriter, Box, Sequence[LabelRef]]]) -> Done:
    """Put the cells of each region together and store it, whole."""
    started, num_bytes = perf_counter(), 0
    failures: dict[str, str] = {}
    for writer, region, cells in work:
        try:
            num_bytes += writer.write(region, _assemble(writer, region, cells))
        except (UnetBatchError, OSError) as error:
            failures[writer.volume_id] = f"writing Labels {writer.name!r} failed: {error}"
    return Done(perf_counter() - started, num_bytes, failures)


@ray.remote(num_cpus=IO_CPUS, max_retries=3)
def publish(work: Sequence[tuple[LabelsWriter, dict[str, Json]]]) -> Done:
    """Make the Labels of each Volume visible, with their provenance."""
    started = perf_counter()
    failures: dict[str, str] = {}
    for writer, provenance in work:
        try:
            writer.prepare()
            writer.publish(provenance)
        except (UnetBatchError, OSError) as error:
            failures[writer.volume_id] = f"publishing Labels {writer.name!r} failed: {error}"
    return Done(perf_counter() - started, 0, failures)


def _assemble(writer: LabelsWriter, region: Box, cells: Sequence[LabelRef]) -> NDArray[Any]:
    """The labels of a region from the cells that touch it; each voxel is in exactly one."""
    arrays = ray.get([ref for _, ref in cells])
    voxels = np.empty(region.shape, writer.dtype)
    for (box, _), array in zip(cells, arrays, strict=True):
        part = box & region
        voxels[part.relative_to(region).slices] = array[part.relative_to(box).slices]
    return voxels
