"""The frames of one DICOM image file as slices: classic files hold one, enhanced ones many.

An enhanced file says of each frame, in functional groups (PS3.3, C.7.6.16), where it lies and
how its pixels rescale; groups that all frames share are written once. A frame's own group
goes before the shared one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.dicom_file import (
    TECHNICAL,
    Place,
    code,
    load,
    numbers,
    read_pixels,
    rescale,
    technical,
    translated,
)
from unet_batch.formats.dicom_plain import PlainFile, plain_pixels, read_plain
from unet_batch.formats.slices import SlicePlane
from unet_batch.planning.volume_info import Json

_GROUPS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "SegmentIdentificationSequence",
)


_KEYWORDS = (
    "Modality", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
    "RescaleIntercept", *TECHNICAL,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slice:
    """One frame: rescaled pixels, where they lie, and what its file says of the acquisition."""

    plane: SlicePlane
    pixels_yx: NDArray[np.generic]
    modality: str
    metadata: Mapping[str, Json]


def read_slices(place: Place) -> list[Slice]:
    """Every frame in `place`, in the file's order.

    Raises
    ------
    UnreadableScanError, VoxelError: as `read_pixels`.
    GeometryError: no position, orientation or spacing.
    VoxelError: many frames without functional groups, as films and scanned pages have.
    """
    with translated(place):
        if (plain := read_plain(place, _KEYWORDS)) is not None:
            return [_plain_slice(plain, place)]
        dataset = load(place)
        num_frames = int(dataset.get("NumberOfFrames") or 1)
        is_enhanced = "PerFrameFunctionalGroupsSequence" in dataset
        if num_frames > 1 and not is_enhanced:
            raise VoxelError(
                f"{place}: {num_frames} frames in one file without functional groups that say "
                "where they lie; expected a classic series or an enhanced image"
            )
        attributes = list(frame_attributes(dataset, place)) if is_enhanced else [dataset]
        frames = read_pixels(dataset, place)
        if len(attributes) != len(frames):
            raise UnreadableScanError(
                f"{place}: {len(frames)} frames, {len(attributes)} functional groups: corrupt"
            )
        modality, metadata = code(dataset.get("Modality")), technical(dataset)
        slices = []
        for number, (own, pixels) in enumerate(zip(attributes, frames, strict=True), start=1):
            label = place.name if len(frames) == 1 else f"{place.name} frame {number}"
            plane = plane_of(own, (pixels.shape[0], pixels.shape[1]), place, label=label)
            slices.append(Slice(plane, rescale(pixels, own), modality, metadata))
        return slices


def _plain_slice(plain: PlainFile, place: Place) -> Slice:
    pixels = plain_pixels(plain)
    kept: Mapping[str, Any] = plain.attributes
    plane = plane_of(kept, (pixels.shape[0], pixels.shape[1]), place, label=place.name)
    return Slice(plane, rescale(pixels, kept), code(kept.get("Modality")), technical(kept))


def frame_attributes(dataset: Any, place: Place) -> Iterator[dict[str, Any]]:
    """For each frame, the attributes of its functional groups in one mapping by keyword."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [{}]
    for own in dataset.PerFrameFunctionalGroupsSequence:
        found: dict[str, Any] = {}
        for name in _GROUPS:
            items = own.get(name) or shared[0].get(name) or ()
            for item in items[:1] if items else ():
                found |= {element.keyword: element.value for element in item}
        yield found
    if not len(dataset.PerFrameFunctionalGroupsSequence):
        raise UnreadableScanError(f"{place}: functional groups of no frame: corrupt")


def plane_of(attributes: Any, shape_yx: tuple[int, int], place: Place, *, label: str) -> SlicePlane:
    """Where the slice with these attributes lies. Raises GeometryError where they do not say."""
    orientation = numbers(attributes, "ImageOrientationPatient", 6, place)
    spacing = numbers(attributes, "PixelSpacing", 2, place)
    if spacing.min() <= 0:
        raise GeometryError(f"{place}: PixelSpacing {spacing.tolist()} mm; expected more than 0")
    pitch = attributes.get("SpacingBetweenSlices") or attributes.get("SliceThickness") or 0.0
    return SlicePlane(
        label=label,
        position=numbers(attributes, "ImagePositionPatient", 3, place),
        row=orientation[:3],
        column=orientation[3:],
        spacing_yx_mm=(float(spacing[0]), float(spacing[1])),
        shape_yx=shape_yx,
        nominal_pitch_mm=abs(float(pitch)),
    )
