"""RTSTRUCT: contours drawn on slices to segments on the scan's grid.

A voxel belongs to a region where its centre lies inside of an odd number of the region's
contours on that slice, so that a contour within a contour is a hole:

    . . . . . . .        even-odd along each row of centres, between pairs of crossings
    . +-------+ .        x ----|=======|---- x
    . | . +-+ | .        x ----|===|-|=|---- x
    . +-------+ .
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError
from unet_batch.formats.dicom_file import Place, code, load, translated
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.scan import Affine, Mask
from unet_batch.formats.segments import Segment, segments_to_masks

Points = NDArray[np.float64]

MAX_OFF_SLICE_VOXELS = 0.25
"""Contours further from a slice were drawn on another series; 0.02 is usual rounding."""

_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}


def read_rtstruct(
    place: Place,
    scan_affine: Affine,
    shape_zyx: tuple[int, int, int],
    rules: MaskRules,
    *,
    labels: str,
) -> dict[str, Mask]:
    """The Masks of the structure set in `place`, on the grid of the scan.

    Raises
    ------
    UnreadableScanError: truncated or corrupt.
    GeometryError: contours that lie between the scan's slices, across them, or outside.
    VoxelError: as `segments_to_masks`.
    """
    with translated(place):
        dataset = load(place)
        to_index: Affine = np.linalg.inv(scan_affine).astype(np.float64)
        regions = _regions(dataset, to_index)
    odd = []
    for region in regions:
        _check_on_slices(region, shape_zyx, place)
        if region.num_open:
            odd.append(
                f"region {region.number}: {region.num_open} open contours or points left out"
            )
    segments = [
        Segment(r.number, r.label, r.meaning, partial(_draw, r, shape_zyx, place))
        for r in regions
        if r.contours_zyx
    ]
    return segments_to_masks(
        segments, scan_affine, rules, labels=labels, where=str(place), warnings=tuple(odd)
    )


def fill_polygon(mask_yx: NDArray[np.bool_], polygon_yx: Points) -> None:
    """Turn over the pixels of `mask_yx` whose centres lie inside of `polygon_yx` (voxels)."""
    start, stop = polygon_yx, np.roll(polygon_yx, -1, axis=0)
    (ya, xa), (yb, xb) = start.T, stop.T
    lowest = max(0, int(np.ceil(ya.min())))
    highest = min(len(mask_yx) - 1, int(np.floor(ya.max())))
    for y in range(lowest, highest + 1):
        crosses = (ya <= y) != (yb <= y)
        share = (y - ya[crosses]) / (yb[crosses] - ya[crosses])
        x = np.sort(xa[crosses] + share * (xb[crosses] - xa[crosses]))
        columns = np.clip(np.ceil(x), 0, mask_yx.shape[1]).astype(int)
        for first, end in columns.reshape(-1, 2):
            mask_yx[y, first:end] ^= True


@dataclass(frozen=True, slots=True)
class _Region:
    """One region of interest: closed contours in voxel indices, each (points, zyx)."""

    number: int
    label: str
    meaning: str
    contours_zyx: tuple[Points, ...]
    num_open: int


def _regions(dataset: Any, to_index: Affine) -> list[_Region]:
    labels = {
        int(item.ROINumber): str(item.get("ROIName") or "")
        for item in dataset.StructureSetROISequence
    }
    kinds = {
        int(item.ReferencedROINumber): code(item.get("RTROIInterpretedType"))
        for item in dataset.get("RTROIObservationsSequence") or ()
    }
    regions = []
    for item in dataset.get("ROIContourSequence") or ():
        number = int(item.ReferencedROINumber)
        contours = item.get("ContourSequence") or ()
        closed = [c for c in contours if c.get("ContourGeometricType") in _CLOSED]
        places = tuple(_indices(contour.ContourData, to_index) for contour in closed)
        num_open = len(contours) - len(closed)
        label, kind = labels.get(number, ""), kinds.get(number, "")
        regions.append(_Region(number, label, kind, places, num_open))
    return regions


def _indices(data: Any, to_index: Affine) -> Points:
    """x, y, z triples in LPS+ mm as voxel indices (points, zyx)."""
    points = np.array([float(number) for number in data]).reshape(-1, 3)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError("a contour without points, or with NaN or inf")
    places: Points = (points * (-1, -1, 1)) @ to_index[:3, :3].T + to_index[:3, 3]
    return places


def _check_on_slices(region: _Region, shape_zyx: tuple[int, int, int], place: Place) -> None:
    for contour in region.contours_zyx:
        z = contour[:, 0]
        number = int(np.rint(z[0])) if abs(z[0]) < 1e9 else -1
        off = float(np.abs(z - number).max())
        low, high = contour.min(axis=0), contour.max(axis=0)
        if off > MAX_OFF_SLICE_VOXELS:
            raise GeometryError(
                f"{place}: region {region.number} has a contour {off:.3g} slices off the nearest "
                f"slice ({number}); it was drawn on another series, or across the slices"
            )
        if not 0 <= number < shape_zyx[0] or (low < -1).any() or (high > shape_zyx).any():
            raise GeometryError(
                f"{place}: region {region.number} has a contour from voxel {low.round(1).tolist()} "
                f"to {high.round(1).tolist()} (z, y, x), outside of the scan's {shape_zyx}; it was "
                "drawn on another series"
            )


def _draw(region: _Region, shape_zyx: tuple[int, int, int], place: Place) -> NDArray[np.bool_]:
    _check_on_slices(region, shape_zyx, place)
    drawn = np.zeros(shape_zyx, np.bool_)
    for contour in region.contours_zyx:
        fill_polygon(drawn[int(np.rint(contour[0, 0]))], contour[:, 1:])
    return drawn
