"""Dice from voxel counts that add up, so that a Volume of any size is scored region by region.

One joint histogram of (predicted class, true class) holds every count that Dice needs of a
region. Histograms of disjoint regions add, so nothing larger than a Shard is ever in memory:

    Shard ─┐
    Shard ─┼─ count_overlap ─▶ Overlap + Overlap + ... ─▶ Dice of each class
    Shard ─┘
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError

Counts = NDArray[np.int64]
Voxels = NDArray[np.unsignedinteger]

_SLICE_VOXELS = 2**20
"""Voxels counted at a time: the int64 indices of a slice stay within a processor's cache."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxels of each class: in both masks, in the prediction, in the truth.

    `counts` is int64 of shape (3, num_classes): rows intersection, predicted, true; columns
    in the order of the class values that were counted. Overlaps of disjoint regions add.
    """

    counts: Counts

    @classmethod
    def nothing(cls, num_classes: int) -> Overlap:
        """The Overlap of no voxels, to start a sum from."""
        return cls(np.zeros((3, num_classes), np.int64))

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.counts + other.counts)

    @property
    def intersection(self) -> Counts:
        """Voxels that have the class in both masks."""
        return self._row(0)

    @property
    def predicted(self) -> Counts:
        """Voxels that have the class in the prediction."""
        return self._row(1)

    @property
    def true(self) -> Counts:
        """Voxels that have the class in the truth."""
        return self._row(2)

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 |P ∩ T| / (|P| + |T|) of each class; NaN where both masks are empty.

        Dice (1945), Ecology 26(3); the NaN is what MONAI's DiceMetric gives.
        """
        total = self.predicted + self.true
        dice = np.full(total.shape, np.nan)
        np.divide(2.0 * self.intersection, total, out=dice, where=total > 0)
        return dice

    def _row(self, number: int) -> Counts:
        row: Counts = self.counts[number]
        return row


def count_overlap(predicted: Voxels, truth: Voxels, class_values: Sequence[int]) -> Overlap:
    """The Overlap of two masks of one shape (any number of axes, any unsigned dtype).

    Values outside `class_values` count as background.
    """
    lookup = _class_numbers(class_values, max(_limit(predicted), _limit(truth)))
    num = len(class_values) + 1
    joint = np.zeros(num * num, np.int64)
    for rows in _slices(predicted, truth):
        pair = lookup[rows[0]] * num + lookup[rows[1]]
        joint += np.bincount(pair, minlength=num * num)
    table = joint.reshape(num, num)
    sums = (table.diagonal(), table.sum(axis=1), table.sum(axis=0))
    return Overlap(np.stack([row[1:] for row in sums]))


def require_same_shape(
    predicted_zyx: Sequence[int], truth_zyx: Sequence[int], *, where: str
) -> None:
    """Raise GeometryError, naming `where`, unless two masks beside one Volume can be compared.

    An Archive refuses Labels with another affine than their Volume's, so equal shapes suffice.
    """
    if tuple(predicted_zyx) != tuple(truth_zyx):
        raise GeometryError(
            f"{where}: the mask has shape {tuple(predicted_zyx)} (z, y, x) but its truth has "
            f"{tuple(truth_zyx)}; bring both onto the scan's grid and write them again"
        )


def _limit(voxels: Voxels) -> int:
    return int(voxels.max(initial=0))


def _class_numbers(class_values: Sequence[int], limit: int) -> NDArray[np.int64]:
    """Table from voxel value to 1 + its place in `class_values`; 0 for any other value."""
    table = np.zeros(max(limit, *class_values, 0) + 1, np.int64)
    table[list(class_values)] = np.arange(1, len(class_values) + 1)
    return table


def _slices(predicted: Voxels, truth: Voxels) -> Iterator[tuple[Voxels, Voxels]]:
    flat = predicted.reshape(-1), truth.reshape(-1)
    for start in range(0, predicted.size, _SLICE_VOXELS):
        stop = start + _SLICE_VOXELS
        yield flat[0][start:stop], flat[1][start:stop]
