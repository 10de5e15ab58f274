"""What is odd about a scan that can be read, and what makes it useless.

Odd scans become Volumes with a warning for each finding. A scan is refused, and so
quarantined, only where nothing could be done with it (no finite voxel), or where a mask would
lie on the wrong side (orientation tags that contradict each other).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError, VoxelError
from unet_batch.formats.scan import Scan
from unet_batch.planning.volume_info import ChannelStatistics

MAX_SPACING_MM = 20.0
"""Thicker slices than any protocol acquires; localisers reach 15 mm."""

MIN_SPACING_MM = 1e-7
"""A tenth of a nanometre: finer than any microscope; most often metres taken for millimetres."""

MAX_EXTENT_MM = 3000.0
"""Longer than a whole-body scan: most often micrometres taken for millimetres."""

_LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "H": (2, 1), "F": (2, -1)}
"""PS3.3, C.7.6.1.1.1: axis of DICOM's LPS+ patient space, and the direction along it."""

_OPPOSITE_COSINE = -0.5
"""An axis that runs more than 120 degrees away from what its letter says."""

_IN_THE_GANTRY = {
    "HFS": ("L", "P"), "HFP": ("R", "A"), "HFDL": ("A", "L"), "HFDR": ("P", "R"),
    "FFS": ("R", "P"), "FFP": ("L", "A"), "FFDL": ("P", "L"), "FFDR": ("A", "R"),
}  # fmt: skip
"""By PatientPosition (PS3.3, C.7.3.1.1.2): where rows and columns run in an axial image as the
scanner sees it, from the foot of the table, columns downwards."""

_AS_DISPLAYED = ("L", "P")
"""Scanners turn images of patients who lie feet first to how all others are shown."""


def odd_about(scan: Scan, statistics: Sequence[ChannelStatistics]) -> tuple[str, ...]:
    """The reader's own warnings, then those on spacing and voxels, as whole sentences.

    `statistics` are those of the scan's channels. Raises VoxelError where no voxel of any
    channel is finite.
    """
    return (*scan.warnings, *_odd_spacing(scan), *_odd_voxels(scan, statistics))


def odd_claims(claims: Mapping[str, str], *, where: str) -> tuple[str, ...]:
    """What DICOM tags (keyword to text) say against the geometry or of the pixels.

    Raises GeometryError where PatientOrientation contradicts ImageOrientationPatient, of which
    the affine is made: left and right, front and back, or head and feet are then exchanged in
    one of the two. PatientPosition, which somebody typed at the scanner, is worth a warning.
    """
    odd: list[str] = []
    if claims.get("AnatomicalOrientationType", "BIPED") != "BIPED":
        return ("AnatomicalOrientationType is not BIPED: an animal; its axes are not those of RAS",)
    letters = claims.get("PatientOrientation", "").upper().split("\\")
    cosines = claims.get("ImageOrientationPatient", "").split("\\")
    if len(letters) == 2 and len(cosines) == 6:
        directions = np.reshape([float(cosine) for cosine in cosines], (2, 3))
        for name, letter, direction in zip(("rows", "columns"), letters, directions, strict=True):
            _check_direction(name, letter[:1], direction, where)
    if len(cosines) == 6:
        odd += _odd_position(claims.get("PatientPosition", "").upper(), cosines)
    if claims.get("BurnedInAnnotation") == "YES":
        odd.append("BurnedInAnnotation is YES: the pixels themselves may show a name")
    return tuple(odd)


def _odd_position(position: str, cosines: Sequence[str]) -> list[str]:
    """What an axial image says against how the patient lay, as a sentence."""
    directions = np.reshape([float(cosine) for cosine in cosines], (2, 3))
    found = tuple(_letter_of(direction) for direction in directions)
    expected = _IN_THE_GANTRY.get(position, found)
    is_axial = not {"H", "F"} & set(found)
    if not is_axial or found in {expected, *([_AS_DISPLAYED] if position[:2] == "FF" else [])}:
        return []
    return [
        f"PatientPosition {position} lets rows and columns run towards {' and '.join(expected)}, "
        f"ImageOrientationPatient says {' and '.join(found)}: the image was turned, or left and "
        "right (or front and back) are exchanged; look at it"
    ]


def _letter_of(direction: NDArray[np.float64]) -> str:
    """The letter of the direction of patient space that is nearest."""
    axis = int(np.abs(direction).argmax())
    return next(
        letter
        for letter, (number, sign) in _LETTERS.items()
        if number == axis and sign * direction[axis] >= 0
    )


def _check_direction(name: str, letter: str, direction: NDArray[np.float64], where: str) -> None:
    if letter not in _LETTERS:
        return
    axis, sign = _LETTERS[letter]
    if direction[axis] * sign < _OPPOSITE_COSINE:
        raise GeometryError(
            f"{where}: PatientOrientation says that {name} run towards {letter}, "
            f"ImageOrientationPatient {direction.round(3).tolist()} says the opposite; left and "
            "right (or front and back, head and feet) are exchanged in one of them: correct the "
            "file at its source"
        )


def _odd_spacing(scan: Scan) -> list[str]:
    spacing = scan.spacing_mm
    extent = [n * mm for n, mm in zip(scan.voxels_czyx.shape[1:], spacing, strict=True)]
    odd = []
    if max(spacing) > MAX_SPACING_MM:
        odd.append(f"implausible spacing {_mm(spacing)} (z, y, x): more than {MAX_SPACING_MM} mm")
    if min(spacing) < MIN_SPACING_MM:
        odd.append(f"implausible spacing {_mm(spacing)} (z, y, x): less than {MIN_SPACING_MM} mm")
    if max(extent) > MAX_EXTENT_MM:
        odd.append(f"implausible extent {_mm(extent)} (z, y, x): more than {MAX_EXTENT_MM} mm")
    return odd


def _odd_voxels(scan: Scan, statistics: Sequence[ChannelStatistics]) -> list[str]:
    odd, num_voxels = [], prod(scan.voxels_czyx.shape[1:])
    for name, one in zip(scan.channels, statistics, strict=True):
        if one.num_nonfinite:
            odd.append(f"channel {name}: {one.num_nonfinite} of {num_voxels} voxels are NaN or inf")
        if one.num_nonfinite < num_voxels and one.min == one.max:
            odd.append(f"channel {name} is constant: every voxel is {one.min:g}")
    if all(one.num_nonfinite == num_voxels for one in statistics):
        raise VoxelError(f"{scan.name}: every voxel is NaN or inf; nothing can be seen in it")
    return odd


def _mm(numbers: tuple[float, ...] | list[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers) + " mm"
