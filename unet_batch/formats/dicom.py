"""DICOM series (a file a slice, or enhanced) to Scans, and Scans to series, through pydicom.

`slices` holds the geometry, `dicom_file` and `dicom_frames` read one file; this module sorts
files into series and stacks their slices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.dicom_file import Place, is_remote, load, translated
from unet_batch.formats.dicom_frames import Slice, read_slices
from unet_batch.formats.dicom_plain import peek
from unet_batch.formats.geometry import check_affine, reverse_index_order, swap_ras_lps
from unet_batch.formats.scan import Scan
from unet_batch.formats.slices import stack_affine, tilt_degrees
from unet_batch.formats.tilt import straighten
from unet_batch.side_by_side import each

_SORTING_TAGS = (
    "SeriesInstanceUID", "SeriesNumber", "SOPClassUID", "Rows", "Columns",
    "ImageOrientationPatient",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SortedFiles:
    """What one folder's DICOM files are: image series, and notes on what was left out."""

    series: tuple[tuple[Place, ...], ...]
    notes: tuple[str, ...]


def sort_into_series(files: Sequence[Place]) -> SortedFiles:
    """`files` of one folder as series, by SeriesNumber; objects that are no images are noted.

    One SeriesInstanceUID comes apart where orientation or size differ (a localiser, say). A
    file that cannot be read is added to every series, so that reading them names it: which
    series it belonged to nobody knows, and one that may lack a slice is not to be trusted.
    """
    groups: dict[_Header, list[Place]] = {}
    notes: list[str] = []
    unreadable: list[Place] = []
    ordered_files = sorted(files, key=str)
    headers = each(_header_or_none, ordered_files, at_once=any(map(is_remote, files)))
    for path, header in zip(ordered_files, headers, strict=True):
        if header is None:
            unreadable.append(path)
        elif header.is_image:
            groups.setdefault(header, []).append(path)
        else:
            notes.append(f"{path}: skipped, no image: {header.object_name}")
    ordered = [groups[key] for key in sorted(groups)] or ([[]] if unreadable else [])
    return SortedFiles(tuple((*found, *unreadable) for found in ordered), tuple(notes))


def read_dicom_series(
    files: Sequence[Place], *, name: str | None = None, resample_tilt: bool = False
) -> Scan:
    """The Scan whose slices are in `files`, in any order: z along the slice normal.

    Voxels are int16 (else uint16, else int32) where every slice has slope 1 and a whole
    intercept, else float32; the channel is named after the modality. An enhanced file with as
    many frames at every place (echoes, phases) gives as many channels. `resample_tilt` makes
    a leaning stack straight, with a warning.

    Raises
    ------
    UnreadableScanError: a file that is truncated, corrupt, or in a syntax that no decoder knows.
    GeometryError: no position, or slices that make no uniform, straight stack (see `slices`).
    VoxelError: colour, inverted (MONOCHROME1), a film, or a lookup table.
    """
    if not files:
        raise UnreadableScanError("a DICOM series needs one file at least, got none")
    slices = [one for place in files for one in read_slices(place)]
    folder = files[0].parent
    modality = slices[0].modality
    where = f"{folder} ({modality or 'DICOM'}, {len(slices)} slices)"
    stacks = _stacks(slices, is_enhanced=len(slices) > len(files))
    for stack in stacks:
        planes = [one.plane for one in stack]
        affine_lps_xyz = stack_affine(planes, where=where, allow_tilt=resample_tilt)
    voxels_czyx = _narrowest([[one.pixels_yx for one in stack] for stack in stacks])
    odd = _lone_slice_warning(stacks[0])
    if tilt := tilt_degrees(planes):
        odd = (*odd, f"resampled: the gantry was tilted by {tilt:.3g} degrees")
        voxels_czyx, affine_lps_xyz = straighten(voxels_czyx, affine_lps_xyz)
    if len(stacks) > 1:
        odd = (*odd, f"{len(stacks)} frames at every place became channels, in the file's order")
    affine = reverse_index_order(swap_ras_lps(affine_lps_xyz))
    check_affine(affine, where=where)
    return Scan(
        name=name or folder.name,
        voxels_czyx=voxels_czyx,
        affine=affine,
        channels=_channel_names(modality, len(stacks)),
        modality=modality,
        metadata=dict(slices[0].metadata),
        warnings=odd,
    )


def write_dicom_series(folder: Path, scan: Scan) -> list[Path]:
    """Write `scan` as an uncompressed CT (modality `CT`) or MR series, one file a z-slice.

    A left-handed grid reads back with z reversed, because readers stack along row x column:
    the same voxels at the same places. UIDs follow from the Scan's name alone.

    Raises
    ------
    VoxelError: several channels, or voxels that int16 does not hold exactly.
    GeometryError: a sheared grid, which DICOM cannot express.
    """
    voxels = _as_int16(scan)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:06d}.dcm" for k in range(len(voxels))]
    for path, dataset, slice_yx in zip(paths, blank_slices(scan), voxels, strict=True):
        dataset.PixelData = np.ascontiguousarray(slice_yx, dtype="<i2").tobytes()
        dataset.save_as(path, enforce_file_format=True)
    return paths


def blank_slices(scan: Scan) -> Iterator[Any]:
    """A pydicom Dataset for each z-slice of `scan`, complete but for its pixels.

    Raises GeometryError for a sheared grid.
    """
    affine_lps_xyz = swap_ras_lps(reverse_index_order(scan.affine))
    directions = affine_lps_xyz[:3, :3] / np.linalg.norm(affine_lps_xyz[:3, :3], axis=0)
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:
        raise GeometryError(f"{scan.name}: DICOM cannot express its sheared grid")
    for k in range(scan.voxels_czyx.shape[1]):
        position = affine_lps_xyz[:3, 3] + k * affine_lps_xyz[:3, 2]
        dataset = _new_dataset(scan, k)
        dataset.ImagePositionPatient = _decimals(position)
        dataset.ImageOrientationPatient = _decimals(directions[:, :2].T.ravel())
        dataset.PixelSpacing = _decimals(scan.spacing_mm[1:])
        dataset.SliceThickness = _decimals(scan.spacing_mm[:1])[0]
        dataset.Rows, dataset.Columns = scan.voxels_czyx.shape[2:]
        yield dataset


@dataclass(frozen=True, slots=True, order=True)
class _Header:
    """What tells one series from another; slices with equal Headers are one series.

    `is_image` follows from the object's class or, where pydicom does not know it, from Rows.
    """

    series_number: int
    series_uid: str
    orientation: tuple[float, ...]
    shape_yx: tuple[int, int]
    object_name: str
    is_image: bool


def _header_or_none(path: Place) -> _Header | None:
    try:
        return _read_header(path)
    except UnreadableScanError:
        return None


def _read_header(path: Place) -> _Header:
    with translated(path):
        dataset, class_uid = _sorting_attributes(path)
        cosines = dataset.get("ImageOrientationPatient") or ()
        rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
        name = UID(str(class_uid)).name
        is_image = "Image Storage" in name if name != str(class_uid) else rows > 0
        header = _Header(
            series_number=int(dataset.get("SeriesNumber") or 0),
            series_uid=str(dataset.get("SeriesInstanceUID") or ""),
            orientation=tuple(round(float(cosine), 2) + 0.0 for cosine in cosines),
            shape_yx=(rows, columns),
            object_name=name,
            is_image=is_image,
        )
    if is_image and not (rows and columns and header.series_uid):
        raise UnreadableScanError(f"{path}: the header ends before Rows and SeriesInstanceUID")
    return header


def _sorting_attributes(path: Place) -> tuple[Any, object]:
    """What answers `get` for the sorting tags, and the UID of the object's class."""
    if (plain := peek(path, _SORTING_TAGS)) is not None:
        return plain.attributes, plain.class_uid or plain.attributes.get("SOPClassUID")
    dataset = load(path, stop_before_pixels=True, specific_tags=_SORTING_TAGS)
    return dataset, dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")


def _stacks(slices: Sequence[Slice], *, is_enhanced: bool) -> list[list[Slice]]:
    """`slices` by place along the normal; of an enhanced file, one stack for each repetition."""
    ordered = sorted(slices, key=lambda one: round(one.plane.place_mm, 3))
    at_place = Counter(round(one.plane.place_mm, 3) for one in ordered)
    repeats = set(at_place.values())
    if not is_enhanced or len(repeats) > 1:
        return [ordered]
    (count,) = repeats
    return [ordered[k::count] for k in range(count)]  # sorting kept the file's order at a place


def _narrowest(stacks: Sequence[Sequence[NDArray[np.generic]]]) -> NDArray[np.generic]:
    """The stacks (c, z, y, x): float32, or the first integer type that holds all of them."""
    slices = [one for stack in stacks for one in stack]
    if any(one.dtype.kind == "f" for one in slices):
        return np.array([np.stack(stack).astype(np.float32) for stack in stacks])
    dtype = _narrowest_type(slices)
    shape = (len(stacks), len(stacks[0]), *slices[0].shape)
    voxels: NDArray[np.generic] = np.empty(shape, dtype)
    for one, target in zip(slices, voxels.reshape(-1, *shape[2:]), strict=True):
        target[...] = one
    return voxels


def _narrowest_type(slices: Sequence[NDArray[np.generic]]) -> type[np.generic]:
    if all(np.can_cast(one.dtype, np.int16) for one in slices):
        return np.int16
    low, high = min(int(one.min()) for one in slices), max(int(one.max()) for one in slices)
    return next(
        dtype
        for dtype in (np.int16, np.uint16, np.int32, np.int64)
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max
    )


def _channel_names(modality: str, count: int) -> tuple[str, ...]:
    if count == 1:
        return (modality or "0",)
    return tuple(f"{modality or 'frame'}_{number}" for number in range(1, count + 1))


def _lone_slice_warning(slices: Sequence[Slice]) -> tuple[str, ...]:
    if len(slices) > 1:
        return ()
    pitch = slices[0].plane.nominal_pitch_mm or 1.0
    return (f"one slice only, so no distance to the next: its pitch is taken as {pitch:g} mm",)


def _as_int16(scan: Scan) -> NDArray[np.int16]:
    if len(scan.voxels_czyx) != 1:
        raise VoxelError(f"{scan.name}: {len(scan.voxels_czyx)} channels; a DICOM series has one")
    voxels: NDArray[np.int16] = np.asarray(scan.voxels_czyx[0]).astype(np.int16)
    if not np.array_equal(voxels, scan.voxels_czyx[0]):
        raise VoxelError(f"{scan.name}: int16 does not hold its {scan.voxels_czyx.dtype} voxels")
    return voxels


def _decimals(numbers: Any) -> list[Any]:
    """Decimal strings of at most 16 characters (PS3.5, 6.2), as exact as that allows."""
    return [pydicom.valuerep.DSfloat(float(n), auto_format=True) for n in numbers]


def _new_dataset(scan: Scan, index: int) -> Any:
    """Slice `index` of a new series, all but its pixels and place; type 2 attributes are empty."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage if scan.modality == "CT" else MRImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[scan.name, f"slice {index}"])
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[scan.name, keyword]))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate",
                    "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
                    "Manufacturer", "PositionReferenceIndicator"):  # fmt: skip
        setattr(dataset, keyword, "")
    dataset.Modality = "CT" if scan.modality == "CT" else "MR"
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.PatientPosition = "HFS"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, index + 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
    return dataset
