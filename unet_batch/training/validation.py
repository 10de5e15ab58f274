"""Dice of a network on whole held-back Volumes while it trains.

Who segments them comes from outside (`Segmenter`): the tile engine, so that a validation sees
what a Job will make of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.evaluation.dice import Overlap, count_overlap
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box
from unet_batch.training.targets import ClassTable
from unet_batch.training.volumes import TrainingVolume

Voxels = NDArray[np.unsignedinteger]


class Segmenter(Protocol):
    """Segments whole Volumes with a network as it is now; travels to the workers."""

    def __call__(
        self,
        network: torch.nn.Module,
        volumes: Sequence[Volume],
        *,
        device: torch.device,
        precision: Literal["fp32", "bf16"],
    ) -> Iterator[tuple[str, Box, Voxels]]:
        """Regions that make up each Volume, and their label values (p, *region).

        There is one plane, or where classes overlap one a class, 0 where it is not.
        """
        ...


def score_volumes(
    segment: Segmenter,
    network: torch.nn.Module,
    volumes: Sequence[TrainingVolume],
    table: ClassTable,
    *,
    device: torch.device,
    precision: Literal["fp32", "bf16"],
) -> dict[str, list[float]]:
    """Dice of each class but the background by Volume id, on each scan's own grid.

    NaN where neither mask nor truth has a class, or where the truth does not tell of it.
    Region by region: no mask of a whole Volume is ever held.
    """
    by_id = {one.id: one for one in volumes}
    overlaps = {one: Overlap.nothing(len(table.foreground)) for one in by_id}
    inside = [one.volume for one in volumes]
    for one, region, planes in segment(network, inside, device=device, precision=precision):
        overlaps[one] += _overlap(planes, by_id[one].read_truth(region), table)
    return {one: _known_dice(overlaps[one], volume, table) for one, volume in by_id.items()}


def mean_dice(scores: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """Mean over all classes, and the mean of each class over the Volumes that have it.

    NaN where no Volume has a class.
    """
    by_class = []
    for values in np.asarray(scores, dtype=np.float64).T:
        known = values[~np.isnan(values)]
        by_class.append(float(known.mean()) if known.size else float("nan"))
    known_classes = [one for one in by_class if not np.isnan(one)]
    mean = sum(known_classes) / len(known_classes) if known_classes else float("nan")
    return mean, by_class


def _overlap(planes_pzyx: Voxels, truth_zyx: Voxels, table: ClassTable) -> Overlap:
    """Voxels of each class in both masks of a region."""
    if table.activation == "softmax":
        values = [one.value for one in table.foreground]
        return count_overlap(planes_pzyx[0], truth_zyx, values)
    each = [
        count_overlap(
            (plane > 0).astype(np.uint8),
            np.isin(truth_zyx, table.member_values(channel)).astype(np.uint8),
            [1],
        )
        for channel, plane in enumerate(planes_pzyx)
    ]
    return Overlap(np.concatenate([one.counts for one in each], axis=1))


def _known_dice(overlap: Overlap, volume: TrainingVolume, table: ClassTable) -> list[float]:
    known = volume.known[table.first_foreground :]
    return np.where(known, overlap.dice, np.nan).tolist()
