"""Writing: labels to whole Shards, and Labels to their readers, as Ray tasks. One writer a Shard.

Every task can run twice to the same bytes, so Ray may retry it wherever a worker dies. The
module knows no torch: its workers must be ready in a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from unet_batch.errors import UnetBatchError
from unet_batch.inference.reading import IO_CPUS
from unet_batch.inference.references import ArrayRef, Ref, fetch
from unet_batch.inference.shared_pages import let_go_of_shared_pages
from unet_batch.planning.volume_info import Json
from unet_batch.side_by_side import each
from unet_batch.storage.labels_set import LabelsSet
from unet_batch.storage.stores import is_far
from unet_batch.tiling.box import Box

ROOM_BYTES = 2**27
"""Of labels that one task encodes side by side."""

LabelRef = tuple[Box, ArrayRef]
"""A cell and where its planes (p, z, y, x) of labels, and of probabilities, are."""

RegionWork = tuple[LabelsSet, Box, Sequence[LabelRef]]
"""A region to be stored, and the cells that fill it."""

Publication = tuple[LabelsSet, dict[str, Json]]
"""Labels whose regions are all written, and their provenance."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a task did: seconds, bytes, and for each Volume that failed the reason.

    `publish_s` are seconds in which Labels were made visible, beside `seconds`.
    """

    seconds: float
    num_bytes: int
    failures: dict[str, str]
    publish_s: float = 0.0


@ray.remote(num_cpus=IO_CPUS, max_retries=3)
def write_regions(work: Sequence[RegionWork], whole: Sequence[Publication]) -> Done:
    """Put the cells of each region together and store it, whole; then publish what is `whole`.

    Small Volumes, each of one region, thus take one task for a pack of them.
    """
    started = perf_counter()
    let_go_of_shared_pages()  # of what this process read, stitched and wrote before
    values = fetch(array for _, _, cells in work for _, array in cells)
    results = each(partial(_write, values=values), work, at_once=_most_at_once(work))
    failures = {
        labels.volume_id: result
        for (labels, _, _), result in zip(work, results, strict=True)
        if isinstance(result, str)
    }
    num_bytes = sum(result for result in results if isinstance(result, int))
    written = perf_counter()
    failures |= _publish_each([one for one in whole if one[0].volume_id not in failures])
    return Done(written - started, num_bytes, failures, perf_counter() - written)


@ray.remote(num_cpus=IO_CPUS, max_retries=3)
def publish(work: Sequence[Publication]) -> Done:
    """Make the Labels of each Volume visible, with their provenance."""
    started = perf_counter()
    failures = _publish_each(work)
    return Done(0.0, 0, failures, perf_counter() - started)


def _write(one: RegionWork, values: Mapping[Ref, Any]) -> int | str:
    """The bytes that were stored, or why none could be."""
    labels, region, cells = one
    try:
        found = [(box, array.of(values[array.ref])) for box, array in cells]
        return labels.write(region, _assemble(labels, region, found))
    except (UnetBatchError, OSError) as error:
        return f"writing Labels {labels.name!r} failed: {error}"


def _most_at_once(work: Sequence[RegionWork]) -> int:
    """Regions that may be on their way to a store far away, being copied and encoded there."""
    if not any(is_far(labels.archive_url) for labels, _, _ in work):
        return 1
    largest = max(
        region.num_voxels * labels.num_planes * np.dtype(labels.dtype).itemsize
        for labels, region, _ in work
    )
    return max(1, ROOM_BYTES // largest)


def _publish_each(work: Sequence[Publication]) -> dict[str, str]:
    """Why it failed, for each Volume whose Labels could not be published."""
    reasons = each(_publish, work, at_once=any(is_far(one.archive_url) for one, _ in work))
    return {
        labels.volume_id: reason
        for (labels, _), reason in zip(work, reasons, strict=True)
        if reason
    }


def _publish(one: Publication) -> str:
    """Why it failed; nothing where it did not."""
    labels, provenance = one
    try:
        labels.prepare()
        labels.publish(provenance)
    except (UnetBatchError, OSError) as error:
        return f"publishing Labels {labels.name!r} failed: {error}"
    return ""


def _assemble(
    labels: LabelsSet, region: Box, cells: Sequence[tuple[Box, NDArray[Any]]]
) -> NDArray[Any]:
    """The planes of a region from the cells that touch it; each voxel is in exactly one."""
    if [box for box, _ in cells] == [region]:
        return cells[0][1]
    planes = np.empty((labels.num_planes, *region.shape), labels.dtype)
    for box, array in cells:
        part = box & region
        inside = part.relative_to(box).slices
        planes[:, *part.relative_to(region).slices] = array[:, *inside]
    return planes
