"""Dice from voxel counts that add up, so that a Volume of any size is scored chunk by chunk.

One joint histogram of (predicted class, true class) a chunk holds every count that Dice
needs. Histograms of disjoint regions add, so nothing larger than a chunk is ever in memory:

    chunk ─┐
    chunk ─┼─ count_overlap ─▶ Overlap + Overlap + ... ─▶ Dice of each class
    chunk ─┘
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError
from unet_batch.formats.scan import Affine

Counts = NDArray[np.int64]
Voxels = NDArray[np.unsignedinteger]

MAX_AFFINE_DIFFERENCE_MM = 1e-3
"""Grids whose affines differ by less describe the same voxels (float32 headers round here)."""

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
        return self.counts[0]

    @property
    def predicted(self) -> Counts:
        """Voxels that have the class in the prediction."""
        return self.counts[1]

    @property
    def true(self) -> Counts:
        """Voxels that have the class in the truth."""
        return self.counts[2]

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 |P ∩ T| / (|P| + |T|) of each class; NaN where both masks are empty.

        Dice (1945), Ecology 26(3); the NaN is what MONAI's DiceMetric gives.
        """
        total = (self.predicted + self.true).astype(np.float64)
        empty = np.full(total.shape, np.nan)
        return np.divide(2.0 * self.intersection, total, out=empty, where=total > 0)


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


def lazy_overlap(predicted: da.Array, truth: da.Array, class_values: Sequence[int]) -> da.Array:
    """The counts of an `Overlap` as a lazy (3, num_classes) int64 array over two lazy masks.

    A chunk of `predicted` and the same region of `truth` are read, counted and forgotten.
    """
    truth = truth.rechunk(predicted.chunks)
    values = tuple(class_values)
    blocks = da.map_blocks(
        _count_block,
        predicted,
        truth,
        values,
        dtype=np.int64,
        new_axis=(predicted.ndim, predicted.ndim + 1),
        chunks=(*((1,) * n for n in predicted.numblocks), (3,), (len(values),)),
        meta=np.empty((0,) * (predicted.ndim + 2), np.int64),
    )
    return blocks.sum(axis=tuple(range(predicted.ndim)))


def require_same_grid(
    predicted_shape: Sequence[int],
    truth_shape: Sequence[int],
    predicted_affine: Affine,
    truth_affine: Affine,
    *,
    where: str,
) -> None:
    """Raise GeometryError, naming `where`, unless two masks lie on one voxel grid."""
    if tuple(predicted_shape) != tuple(truth_shape):
        raise GeometryError(
            f"{where}: the mask has shape {tuple(predicted_shape)} (z, y, x) but its truth has "
            f"{tuple(truth_shape)}; bring the truth onto the scan's grid and ingest it again"
        )
    difference = float(np.abs(np.subtract(predicted_affine, truth_affine)).max())
    if not difference <= MAX_AFFINE_DIFFERENCE_MM:
        raise GeometryError(
            f"{where}: the affines of mask and truth differ by {difference:.4g} mm (expected at "
            f"most {MAX_AFFINE_DIFFERENCE_MM:g}); bring the truth onto the scan's grid"
        )


def _count_block(predicted: Voxels, truth: Voxels, class_values: tuple[int, ...]) -> Counts:
    counts = count_overlap(predicted, truth, class_values).counts
    return counts.reshape((1,) * predicted.ndim + counts.shape)


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
