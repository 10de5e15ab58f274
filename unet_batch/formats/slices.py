"""Slices to a stack: the pure geometry of a DICOM series, without DICOM.

Order and pitch of slices come from where they say they are:

        n = row x column        position_k . n = place of slice k along the normal
    ----|----|----|--------|----|----> n
        0    1    2   gap  4    5       a missing slice: refused, never bridged

SliceThickness is how thick a slice was acquired, not how far the next one is, and
InstanceNumber may run either way: neither decides anything. All millimetres here are LPS+.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError

Vector = NDArray[np.float64]

MAX_MISPLACED = 0.15
"""Share of the slice pitch by which a slice may lie off the uniform grid. Positions rounded to
0.1 mm, as some scanners write them, put slices of 0.625 mm pitch 0.08 off, and the grid's ends
as much."""

MAX_DRIFT_PIXELS = 0.1
"""In-plane drift over a whole stack, in pixels, above which it counts as gantry tilt."""

_SAME = 1e-3  # cosines and relative pixel spacings that differ by less are the same


@dataclass(frozen=True, slots=True)
class SlicePlane:
    """Where one slice lies.

    `position` is the centre of its first pixel; `row` and `column` are the unit vectors along
    which the column index x and the row index y grow; `nominal_pitch_mm` is what the file says
    of the distance to the next slice, used only where there is no next slice.
    """

    label: str
    position: Vector
    row: Vector
    column: Vector
    spacing_yx_mm: tuple[float, float]
    shape_yx: tuple[int, int]
    nominal_pitch_mm: float

    @property
    def normal(self) -> Vector:
        """The direction of the stack: row x column."""
        return np.cross(self.row, self.column)

    @property
    def place_mm(self) -> float:
        """Where along `normal` the slice lies."""
        return float(self.position @ self.normal)


def stack_affine(
    planes: Sequence[SlicePlane], *, where: str, allow_tilt: bool = False
) -> NDArray[np.float64]:
    """Index (x, y, z) to LPS+ mm, 4x4, of `planes` in the order of their places.

    PS3.3, C.7.6.2.1.1 gives the first two columns; the third is the mean step between slices.

    Raises
    ------
    GeometryError: planes that differ in size, spacing or orientation; slices missing, doubled
        or uneven; a stack that leans (gantry tilt), unless `allow_tilt`. `where` names the series.
    """
    first, last = planes[0], planes[-1]
    for plane in planes[1:]:
        _check_alike(first, plane, where)
    _check_square(first, where)
    step = first.normal * (first.nominal_pitch_mm or 1.0)
    if len(planes) > 1:
        _check_steps(planes, where)
        if not allow_tilt:
            _check_tilt(first, last, where)
        step = (last.position - first.position) / (len(planes) - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.row * first.spacing_yx_mm[1]
    affine[:3, 1] = first.column * first.spacing_yx_mm[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return affine


def tilt_degrees(planes: Sequence[SlicePlane]) -> float:
    """By how much a stack leans; 0 where the drift is too small to matter."""
    along, drift = _travel(planes[0], planes[-1])
    is_tilted = drift > MAX_DRIFT_PIXELS * min(planes[0].spacing_yx_mm)
    return float(np.degrees(np.arctan2(drift, along))) if is_tilted else 0.0


def _check_square(plane: SlicePlane, where: str) -> None:
    lengths = np.linalg.norm([plane.row, plane.column], axis=1)
    if np.abs(lengths - 1).max() > _SAME or abs(float(plane.row @ plane.column)) > _SAME:
        raise GeometryError(
            f"{where}: orientation {_cosines(plane)} is not two unit vectors at a right angle"
        )


def _check_alike(first: SlicePlane, other: SlicePlane, where: str) -> None:
    turned = np.abs(np.subtract(_cosines(first), _cosines(other))).max() > _SAME
    spacing = np.abs(np.divide(other.spacing_yx_mm, first.spacing_yx_mm) - 1).max()
    if other.shape_yx != first.shape_yx or turned or spacing > _SAME:
        raise GeometryError(
            f"{where}: slices differ: {first.label} has {_in_words(first)}, "
            f"{other.label} has {_in_words(other)}; sort them into series of their own"
        )


def _check_steps(planes: Sequence[SlicePlane], where: str) -> None:
    places = np.array([plane.place_mm for plane in planes])
    steps = np.diff(places)
    usual = float(np.median(steps))
    for (before, after), step in zip(pairwise(planes), steps, strict=True):
        if step <= MAX_MISPLACED * usual:
            raise GeometryError(
                f"{where}: two slices at the same place, {before.place_mm:.6g} mm along the "
                f"normal: {before.label} and {after.label}; two series, echoes or time points "
                "in one? Sort them apart"
            )
        if step > (2 - MAX_MISPLACED) * usual:
            raise GeometryError(
                f"{where}: missing slices ({round(step / usual) - 1}) between {before.label} and "
                f"{after.label}: {step:.4g} mm apart where {usual:.4g} mm is usual; "
                "fetch the series again"
            )
    even = np.linspace(places[0], places[-1], len(places))
    if np.abs(places - even).max() > MAX_MISPLACED * usual:
        raise GeometryError(
            f"{where}: slices are unevenly spaced, {steps.min():.4g} to {steps.max():.4g} mm; "
            "a Volume needs one pitch"
        )


def _check_tilt(first: SlicePlane, last: SlicePlane, where: str) -> None:
    along, drift = _travel(first, last)
    if tilt := tilt_degrees((first, last)):
        raise GeometryError(
            f"{where}: gantry tilt of {tilt:.3g} degrees: slices drift sideways by {drift:.4g} mm "
            f"over {along:.4g} mm; set resample_tilt, or resample it to a straight grid"
        )


def _travel(first: SlicePlane, last: SlicePlane) -> tuple[float, float]:
    """Millimetres from the first slice to the last, along the normal and sideways."""
    travelled = last.position - first.position
    along = float(travelled @ first.normal)
    return along, float(np.linalg.norm(travelled - along * first.normal))


def _cosines(plane: SlicePlane) -> list[float]:
    cosines: list[float] = np.concatenate([plane.row, plane.column]).round(4).tolist()
    return cosines


def _in_words(plane: SlicePlane) -> str:
    rows, columns = plane.shape_yx
    return f"{rows} x {columns} pixels of {plane.spacing_yx_mm} mm, orientation {_cosines(plane)}"
