"""What is odd about a scan that can be read: warnings for its Volume, none of them an error."""

from __future__ import annotations

import numpy as np

from unet_batch.formats.scan import Scan

MAX_SPACING_MM = 20.0
"""Thicker slices than any protocol acquires; localisers reach 15 mm."""

MAX_EXTENT_MM = 3000.0
"""Longer than a whole-body scan: most often micrometres taken for millimetres."""


def odd_about(scan: Scan) -> tuple[str, ...]:
    """The reader's own warnings, then those on spacing and voxels, as whole sentences."""
    return (*scan.warnings, *_odd_spacing(scan), *_odd_voxels(scan))


def _odd_spacing(scan: Scan) -> list[str]:
    spacing = scan.spacing_mm
    extent = [n * mm for n, mm in zip(scan.voxels_czyx.shape[1:], spacing, strict=True)]
    odd = []
    if max(spacing) > MAX_SPACING_MM:
        odd.append(f"implausible spacing {_mm(spacing)} (z, y, x): more than {MAX_SPACING_MM} mm")
    if max(extent) > MAX_EXTENT_MM:
        odd.append(f"implausible extent {_mm(extent)} (z, y, x): more than {MAX_EXTENT_MM} mm")
    return odd


def _odd_voxels(scan: Scan) -> list[str]:
    odd = []
    for name, voxels in zip(scan.channels, scan.voxels_czyx, strict=True):
        finite = voxels if voxels.dtype.kind in "iu" else voxels[np.isfinite(voxels)]
        if lost := voxels.size - finite.size:
            odd.append(f"channel {name}: {lost} of {voxels.size} voxels are NaN or inf")
        if finite.size and finite.min() == finite.max():
            odd.append(f"channel {name} is constant: every voxel is {finite.min()}")
    return odd


def _mm(numbers: tuple[float, ...] | list[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers) + " mm"
