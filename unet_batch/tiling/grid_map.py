"""GridMap: between a scan's own voxels and the grid that a network wants, axis by axis.

A network that was trained at another spacing, or on axes that run another way, sees the scan
on a *model grid*. It is MONAI's (`Orientation`, then `Spacing` with its defaults, 1.6): axes
are swapped and flipped to the closest of the wanted orientation, then only the spacing along
each axis changes. The centre of voxel 0 stays where it is, the number of voxels is
`round((n - 1) * spacing / wanted + 1)`, and positions beyond the border take the border's
value.

    scan    0     1     2     3     4     5        index(scan) = offset + step * index(model)
            o     o     o     o     o     o
            x        x        x        x           step = 1.5: the model grid is coarser
    model   0        1        2        3

So every model axis is one scan axis, and resampling is one linear interpolation an axis, by
`Taps`. Oblique scans keep their oblique axes; a sheared grid (a tilted gantry) keeps its
shear, where MONAI's `Spacing` would rotate it away.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unet_batch.tiling.box import Box, Index

KEPT_MM = 1e-3
"""Spacings that differ by no more are the same (`monai.data.utils.AFFINE_TOL`)."""

_SNAP = 1e-6  # voxels: closer to a voxel's centre, a position is that centre
_LETTERS = ("LR", "PA", "IS")

Interval = tuple[int, int]


class AxisTurn(NamedTuple):
    """The scan axis that a model axis is, and whether it runs against it."""

    scan_axis: int
    is_flipped: bool


UNTURNED = tuple(AxisTurn(axis, is_flipped=False) for axis in range(3))


class Taps(NamedTuple):
    """Where values along one axis come from: `(1 - weight) * x[below] + weight * x[above]`.

    `below` and `above` are neighbours or the same index; `weight` lies in [0, 1).
    """

    below: NDArray[np.int64]
    above: NDArray[np.int64]
    weight: NDArray[np.float32]

    def relative_to(self, origin: int) -> Taps:
        """These Taps in an array whose first value has the index `origin`."""
        return Taps(self.below - origin, self.above - origin, self.weight)

    def between(self, start: int, stop: int) -> Taps:
        """Those of the values `start <= index < stop`."""
        return Taps(self.below[start:stop], self.above[start:stop], self.weight[start:stop])

    @property
    def interval(self) -> Interval:
        """The indices that are touched; an empty interval where there are no values."""
        if not len(self.below):
            return 0, 0
        return int(self.below.min()), int(self.above.max()) + 1


@dataclass(frozen=True, slots=True)
class AxisMap:
    """One axis of a model grid: its scan axis, the voxels of both, scan voxels a model voxel."""

    scan_axis: int
    is_flipped: bool
    scan_size: int
    model_size: int
    step: float

    @classmethod
    def of(cls, turn: AxisTurn, size: int, spacing_mm: float, wanted_mm: float | None) -> AxisMap:
        """The map of a scan axis of `size` voxels to a spacing of `wanted_mm`; None keeps it."""
        if wanted_mm is None or size == 1 or abs(spacing_mm - wanted_mm) <= KEPT_MM:
            return cls(*turn, size, size, 1.0)
        step = wanted_mm / spacing_mm
        return cls(*turn, size, round((size - 1) / step + 1.0), step)

    @property
    def is_interpolated(self) -> bool:
        """Whether voxels of the two grids lie apart: the spacing differs."""
        return self.step != 1.0

    def to_model(self, start: int, stop: int) -> Taps:
        """Taps on scan indices for the model voxels `start <= index < stop`."""
        return _flip(_taps_to_model(self, start, stop), self)

    def to_scan(self, start: int, stop: int) -> Taps:
        """Taps on model indices for the scan voxels `start <= index < stop`."""
        taps = _taps_to_scan(self)
        if self.is_flipped:
            chosen = taps.between(self.scan_size - stop, self.scan_size - start)
            return Taps(chosen.below[::-1], chosen.above[::-1], chosen.weight[::-1])
        return taps.between(start, stop)

    def completed(self, start: int, stop: int) -> Interval:
        """Scan voxels that need none behind model voxel `stop - 1`, and one from `start` on.

        Consecutive model intervals complete consecutive scan intervals: those of
        (0, p), (p, q), ... (., model_size) cover the scan axis once. Some may be empty.
        """
        above = _taps_to_scan(self).above
        first, last = bisect_left(above, start), bisect_left(above, stop)
        return (self.scan_size - last, self.scan_size - first) if self.is_flipped else (first, last)


@dataclass(frozen=True, slots=True)
class GridMap:
    """The model grid of one scan: an AxisMap for each model axis (z, y, x)."""

    axes: tuple[AxisMap, ...]

    @classmethod
    def of(
        cls,
        shape_zyx: Index,
        spacing_mm: Sequence[float],
        *,
        wanted_mm: Sequence[float | None] | None,
        turns: Sequence[AxisTurn] = UNTURNED,
    ) -> GridMap:
        """The map of a scan to `wanted_mm` along the model's axes, which `turns` tells.

        None keeps the spacing: of all axes, or of the one it stands for.
        """
        wanted = wanted_mm or (None,) * len(turns)
        return cls(
            tuple(
                AxisMap.of(turn, shape_zyx[turn.scan_axis], spacing_mm[turn.scan_axis], one)
                for turn, one in zip(turns, wanted, strict=True)
            )
        )

    @property
    def is_identity(self) -> bool:
        """Whether the model grid is the scan's own."""
        return all(
            axis.scan_axis == number and not axis.is_flipped and not axis.is_interpolated
            for number, axis in enumerate(self.axes)
        )

    @property
    def is_interpolated(self) -> bool:
        """Whether voxels of the two grids lie apart, not just in another order."""
        return any(axis.is_interpolated for axis in self.axes)

    @property
    def model_shape(self) -> Index:
        """Voxels of the model grid."""
        return tuple(axis.model_size for axis in self.axes)

    def model_spacing(self, spacing_mm: Sequence[float]) -> tuple[float, ...]:
        """Spacing along the model's axes of a scan whose own is `spacing_mm`."""
        return tuple(spacing_mm[axis.scan_axis] * axis.step for axis in self.axes)

    def nearest(self, scan: Sequence[int]) -> Index:
        """Index of the model voxel nearest to a scan voxel."""
        taps = self.taps_to_scan(Box(tuple(scan), tuple(n + 1 for n in scan)))
        return tuple(int(one.below[0] + (one.weight[0] >= 0.5)) for one in taps)

    @property
    def scan_axes(self) -> Index:
        """The scan axis of each model axis: what permutes scan axes into the model's order."""
        return tuple(axis.scan_axis for axis in self.axes)

    @property
    def model_axes(self) -> Index:
        """The model axis of each scan axis: what permutes model axes into the scan's order."""
        return tuple(self.scan_axes.index(number) for number in range(len(self.axes)))

    def scan_box(self, model: Box) -> Box:
        """The scan voxels that the voxels of a model Box are interpolated from."""
        taps = [
            axis.to_model(a, b)
            for axis, a, b in zip(self.axes, model.start, model.stop, strict=True)
        ]
        return self._in_scan_order([one.interval for one in taps])

    def model_box(self, scan: Box) -> Box:
        """The model voxels that the voxels of a scan Box are interpolated from."""
        return _box([taps.interval for taps in self.taps_to_scan(scan)])

    def completed(self, model: Box) -> Box:
        """The scan voxels that `model` completes, along each axis as `AxisMap.completed`."""
        return self._in_scan_order(
            [
                axis.completed(a, b)
                for axis, a, b in zip(self.axes, model.start, model.stop, strict=True)
            ]
        )

    def taps_to_model(self, model: Box) -> tuple[Taps, ...]:
        """Taps on scan indices for a model Box, by model axis."""
        return tuple(
            axis.to_model(a, b)
            for axis, a, b in zip(self.axes, model.start, model.stop, strict=True)
        )

    def taps_to_scan(self, scan: Box) -> tuple[Taps, ...]:
        """Taps on model indices for a scan Box, by model axis."""
        return tuple(
            axis.to_scan(scan.start[axis.scan_axis], scan.stop[axis.scan_axis])
            for axis in self.axes
        )

    def _in_scan_order(self, intervals: Sequence[Interval]) -> Box:
        return _box([intervals[number] for number in self.model_axes])


def turns_to(orientation: str, affine: NDArray[np.float64]) -> tuple[AxisTurn, ...]:
    """How a scan's axes become those of an orientation such as `RAS`, for z, y and x.

    `orientation` has a letter for x, y and z, in this order, as viewers show it: the side to
    which the index grows. `affine` maps index (z, y, x, 1) to RAS+ millimetres. An oblique
    axis counts as the patient axis it is closest to.
    """
    sides = closest_sides(affine)
    turns = []
    for letter in reversed(orientation):
        patient = next(k for k, pair in enumerate(_LETTERS) if letter in pair)
        number = next(k for k, (axis, _) in enumerate(sides) if axis == patient)
        grows = _LETTERS[patient].index(letter) == 1
        turns.append(AxisTurn(number, is_flipped=grows != sides[number][1]))
    return tuple(turns)


def closest_sides(affine: NDArray[np.float64]) -> list[tuple[int, bool]]:
    """For each index axis the closest patient axis (R, A, S: 0, 1, 2), and whether it grows so.

    The rotation closest to the affine decides, its columns one after the other, so that each
    patient axis is taken once (`nibabel.orientations.io_orientation`).
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(cosines)
    rotation = left @ right
    sides = []
    for column in range(3):
        patient = int(np.abs(rotation[:, column]).argmax())
        sides.append((patient, bool(rotation[patient, column] > 0)))
        rotation[patient] = 0
    return sides


def _box(intervals: Sequence[Interval]) -> Box:
    return Box(tuple(a for a, _ in intervals), tuple(b for _, b in intervals))


def _taps_to_model(axis: AxisMap, start: int, stop: int) -> Taps:
    return _taps(np.arange(start, stop, dtype=np.float64) * axis.step, axis.scan_size)


@lru_cache(maxsize=1024)
def _taps_to_scan(axis: AxisMap) -> Taps:
    """Of all scan voxels in the model's direction, so that `above` ascends."""
    return _taps(np.arange(axis.scan_size, dtype=np.float64) / axis.step, axis.model_size)


def _taps(positions: NDArray[np.float64], size: int) -> Taps:
    """Taps for positions in voxels of an axis of `size`; beyond its border, the border."""
    centres = np.rint(positions)
    snapped = np.where(np.abs(positions - centres) < _SNAP, centres, positions)
    inside = np.clip(snapped, 0, size - 1)
    below = np.floor(inside)
    return Taps(
        below.astype(np.int64),
        np.ceil(inside).astype(np.int64),
        (inside - below).astype(np.float32),
    )


def _flip(taps: Taps, axis: AxisMap) -> Taps:
    """Taps on scan indices that count from the other end, where the axis is flipped."""
    if not axis.is_flipped:
        return taps
    last = axis.scan_size - 1
    return Taps(
        last - taps.above,
        last - taps.below,
        np.where(taps.weight > 0, 1 - taps.weight, taps.weight),
    )
