"""Where the voxels of each class lie in a scan: how many in each plane across each axis.

These counts add up over regions like those of Dice. They say where a class has its centre, and
whether it reaches the scan's border, without a second look at the voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from unet_batch.tiling.box import Box

Counts = NDArray[np.int64]

_SLAB_VOXELS = 2**20
"""Voxels looked at together: their int64 indices take 40 MiB at most."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """Voxels of each class in each plane: for every axis int64 of shape (num_classes, length)."""

    per_axis: tuple[Counts, ...]

    @classmethod
    def nothing(cls, num_classes: int, shape_zyx: Sequence[int]) -> Profiles:
        """The Profiles of an empty mask, to start a sum from."""
        return cls(tuple(np.zeros((num_classes, length), np.int64) for length in shape_zyx))

    def __add__(self, other: Profiles) -> Profiles:
        pairs = zip(self.per_axis, other.per_axis, strict=True)
        return Profiles(tuple(ours + theirs for ours, theirs in pairs))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one class lies in one scan.

    Attributes
    ----------
    num_voxels: of the class.
    centre_zyx: mean voxel index; None where the class is empty.
    contacts: voxels in the scan's first and last plane across z, y and x (six numbers); 0 across
        an axis of one voxel, where there is no border to be cut by.
    """

    num_voxels: int
    centre_zyx: tuple[float, float, float] | None
    contacts: tuple[int, ...]


def count_profiles(
    mask_zyx: NDArray[np.unsignedinteger],
    class_values: Sequence[int],
    *,
    region: Box | None = None,
    shape_zyx: Sequence[int] | None = None,
) -> Profiles:
    """The Profiles of the voxels `mask_zyx` of `region` of a mask of `shape_zyx`."""
    region = region or Box.from_shape(mask_zyx.shape)
    profiles = Profiles.nothing(len(class_values), shape_zyx or mask_zyx.shape)
    number = np.zeros(max(int(mask_zyx.max(initial=0)), *class_values, 0) + 1, np.int64)
    number[list(class_values)] = np.arange(1, len(class_values) + 1)
    number[0] = 0
    depth = max(1, _SLAB_VOXELS // max(prod(mask_zyx.shape[1:]), 1))
    for first in range(0, len(mask_zyx), depth):
        start = (region.start[0] + first, *region.start[1:])
        _add_slab(profiles, mask_zyx[first : first + depth], number, start)
    return profiles


def _add_slab(
    profiles: Profiles, mask_zyx: NDArray[np.unsignedinteger], number: Counts, start: Sequence[int]
) -> None:
    """Add the voxels of a slab whose first voxel is `start`; `number` is 1 + a class's row."""
    chosen = np.flatnonzero(mask_zyx)
    rows = number[mask_zyx.reshape(-1)[chosen]]
    for axis, index in enumerate(np.unravel_index(chosen, mask_zyx.shape)):
        length, counts = mask_zyx.shape[axis], profiles.per_axis[axis]
        joint = np.bincount(rows * length + index, minlength=(len(counts) + 1) * length)
        counts[:, start[axis] : start[axis] + length] += joint.reshape(-1, length)[1:]


def placements_of(profiles: Profiles) -> tuple[Placement, ...]:
    """One Placement for each class, in the order that was counted."""
    return tuple(_placement([axis[k] for axis in profiles.per_axis]) for k in range(_num(profiles)))


def _num(profiles: Profiles) -> int:
    return len(profiles.per_axis[0])


def _placement(rows: Sequence[Counts]) -> Placement:
    total = int(rows[0].sum())
    ends = [(int(row[0]), int(row[-1])) if len(row) > 1 else (0, 0) for row in rows]
    contacts = tuple(number for pair in ends for number in pair)
    if total == 0:
        return Placement(0, None, contacts)
    z, y, x = (float(np.arange(len(row)) @ row) / total for row in rows)
    return Placement(total, (z, y, x), contacts)
