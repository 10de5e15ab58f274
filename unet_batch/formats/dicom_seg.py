"""DICOM segmentations (SEG: binary, fractional, label map) to segments on a grid of their own.

Frames of nothing are left out of such files, so frames say where they lie one by one; the
scan that was segmented tells how far its slices are apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError, UnreadableScanError
from unet_batch.formats.dicom_file import Place, load, read_pixels, translated
from unet_batch.formats.dicom_frames import frame_attributes, plane_of
from unet_batch.formats.geometry import reverse_index_order, swap_ras_lps
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.scan import Affine, Mask
from unet_batch.formats.segments import Segment, segments_to_masks
from unet_batch.formats.slices import SlicePlane

MAX_MISPLACED_VOXELS = 0.1
MAX_SLICES = 100_000

Stored = NDArray[np.generic]


def read_dicom_seg(
    place: Place, scan_affine: Affine, rules: MaskRules, *, labels: str
) -> dict[str, Mask]:
    """The Masks of the segmentation in `place`, on a grid around its frames.

    A fractional segment holds where it is at least half. `scan_affine` gives the slice pitch.

    Raises
    ------
    UnreadableScanError: truncated, corrupt, or no segmentation.
    GeometryError: frames that lie on no common grid.
    VoxelError: as `segments_to_masks`.
    """
    with translated(place):
        dataset = load(place)
        attributes = list(frame_attributes(dataset, place))
        frames = read_pixels(dataset, place, photometrics=("MONOCHROME2", "PALETTE COLOR"))
        if len(attributes) != len(frames) or "SegmentSequence" not in dataset:
            raise UnreadableScanError(
                f"{place}: {len(frames)} frames, {len(attributes)} descriptions of frames: corrupt"
            )
        shape_yx = (frames.shape[1], frames.shape[2])
        planes = [plane_of(own, shape_yx, place, label=place.name) for own in attributes]
        grid = _grid_of(planes, scan_affine, place)
        kind = str(dataset.get("SegmentationType") or "BINARY")
        least = int(dataset.get("MaximumFractionalValue") or 1) / 2 if kind == "FRACTIONAL" else 1
        numbers = [int(own.get("ReferencedSegmentNumber") or 0) for own in attributes]
        segments = [
            _segment(item, grid, _Frames(frames, numbers, least, is_map=kind == "LABELMAP"))
            for item in dataset.SegmentSequence
        ]
        odd = ("fractional segments were cut at one half",) if kind == "FRACTIONAL" else ()
    present = [segment for segment in segments if segment.number]
    return segments_to_masks(
        present, grid.affine, rules, labels=labels, where=str(place), warnings=odd
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where frames lie: their slice numbers, and the grid that these refer to."""

    slice_of_frame: tuple[int, ...]
    shape_zyx: tuple[int, int, int]
    affine: Affine


@dataclass(frozen=True, slots=True)
class _Frames:
    """Stored pixels, and the segment of each frame where a frame belongs to one."""

    pixels: Stored
    segment_of_frame: Sequence[int]
    least: float
    is_map: bool

    def of(self, number: int) -> Mapping[int, NDArray[np.bool_]]:
        """Frames by index in which the segment `number` may occur."""
        if self.is_map:
            return {k: frame == number for k, frame in enumerate(self.pixels)}
        own = [k for k, segment in enumerate(self.segment_of_frame) if segment == number]
        pixels: Any = self.pixels
        return {k: pixels[k] >= self.least for k in own}


def _segment(item: Any, grid: _Grid, frames: _Frames) -> Segment:
    number = int(item.SegmentNumber)
    coded = item.get("SegmentedPropertyTypeCodeSequence") or ()
    meaning = str(coded[0].get("CodeMeaning") or "") if coded else ""
    return Segment(
        number, str(item.get("SegmentLabel") or ""), meaning, partial(_draw, number, grid, frames)
    )


def _draw(number: int, grid: _Grid, frames: _Frames) -> NDArray[np.bool_]:
    drawn = np.zeros(grid.shape_zyx, np.bool_)
    for index, inside in frames.of(number).items():
        drawn[grid.slice_of_frame[index]] |= inside
    return drawn


def _grid_of(planes: Sequence[SlicePlane], scan_affine: Affine, place: Place) -> _Grid:
    """The grid through the lowest of `planes`, its pitch that of the scan."""
    first = min(planes, key=lambda plane: plane.place_mm)
    normal_ras = first.normal * (-1, -1, 1)
    lengths = np.linalg.norm(scan_affine[:3, :3], axis=0)
    pitch = float(lengths[np.abs(normal_ras @ (scan_affine[:3, :3] / lengths)).argmax()])
    numbers = [round((plane.place_mm - first.place_mm) / pitch) for plane in planes]
    for plane, number in zip(planes, numbers, strict=True):
        expected = first.position + number * pitch * first.normal
        off = float(np.linalg.norm(plane.position - expected))
        turned = np.abs([*(plane.row - first.row), *(plane.column - first.column)]).max()
        if off > MAX_MISPLACED_VOXELS * min(pitch, *first.spacing_yx_mm) or turned > 1e-3:
            raise GeometryError(
                f"{place}: a frame at {plane.position.tolist()} mm lies {off:.3g} mm off the "
                f"slices of the scan ({pitch:.4g} mm apart); segment the scan itself"
            )
    if max(numbers) >= MAX_SLICES:
        raise GeometryError(f"{place}: frames span {max(numbers) + 1} slices of {pitch:.4g} mm")
    affine_lps_xyz = np.eye(4)
    affine_lps_xyz[:3, 0] = first.row * first.spacing_yx_mm[1]
    affine_lps_xyz[:3, 1] = first.column * first.spacing_yx_mm[0]
    affine_lps_xyz[:3, 2] = first.normal * pitch
    affine_lps_xyz[:3, 3] = first.position
    affine = reverse_index_order(swap_ras_lps(affine_lps_xyz))
    return _Grid(tuple(numbers), (max(numbers) + 1, *first.shape_yx), affine)
