"""Classic (one frame a file) DICOM series to Scans, and Scans to DICOM series, through pydicom.

`slices` holds the geometry; this module reads and writes the files. Only technical
attributes reach a Scan's metadata, and of those only numbers and code strings, which cannot
hold a name.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.geometry import check_affine, reverse_index_order, swap_ras_lps
from unet_batch.formats.scan import Scan
from unet_batch.formats.slices import SlicePlane, stack_affine
from unet_batch.planning.volume_info import Json

_MAGIC_OFFSET, _MAGIC = 128, b"DICM"
_NUMBERS = (
    "SliceThickness", "SpacingBetweenSlices", "KVP", "MagneticFieldStrength", "RepetitionTime",
    "EchoTime", "InversionTime", "FlipAngle", "EchoTrainLength",
)  # fmt: skip
_CODES = ("PatientPosition", "BodyPartExamined", "Units", "ScanningSequence", "MRAcquisitionType")
_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")  # PS3.5, 6.2: value representation CS
_SORTING_TAGS = [
    "SeriesInstanceUID", "SeriesNumber", "SOPClassUID", "Rows", "Columns",
    "ImageOrientationPatient",
]  # fmt: skip
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError,
    NotImplementedError, RuntimeError, MemoryError, OverflowError, struct.error,
    pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SortedFiles:
    """What one folder's DICOM files are: image series, and notes on what was left out."""

    series: tuple[tuple[Path, ...], ...]
    notes: tuple[str, ...]


def is_dicom(path: Path) -> bool:
    """Whether `path` holds DICOM's magic `DICM` behind its preamble; names prove nothing."""
    try:
        with path.open("rb") as stream:
            stream.seek(_MAGIC_OFFSET)
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def sort_into_series(files: Sequence[Path]) -> SortedFiles:
    """`files` of one folder as series, by SeriesNumber; objects that are no images are noted.

    One SeriesInstanceUID comes apart where orientation or size differ (a localiser, say). A
    file that cannot be read is added to every series, so that reading them names it: which
    series it belonged to nobody knows, and one that may lack a slice is not to be trusted.
    """
    groups: dict[_Header, list[Path]] = {}
    notes: list[str] = []
    unreadable: list[Path] = []
    for path in sorted(files):
        try:
            header = _read_header(path)
        except UnreadableScanError:
            unreadable.append(path)
            continue
        if header.is_image:
            groups.setdefault(header, []).append(path)
        else:
            notes.append(f"{path}: skipped, no image: {header.object_name}")
    ordered = [groups[key] for key in sorted(groups)] or ([[]] if unreadable else [])
    return SortedFiles(tuple((*found, *unreadable) for found in ordered), tuple(notes))


def read_dicom_series(files: Sequence[Path], *, name: str | None = None) -> Scan:
    """The Scan whose slices are `files`, in any order: z along the slice normal.

    Voxels are int16 (else uint16, else int32) where every slice has slope 1 and a whole
    intercept, else float32; the channel is named after the modality.

    Raises
    ------
    UnreadableScanError: a file that is truncated, corrupt, or in a syntax that no decoder knows.
    GeometryError: no position, or slices that make no uniform, straight stack (see `slices`).
    VoxelError: colour, inverted (MONOCHROME1), multi-frame, or a lookup table.
    """
    if not files:
        raise UnreadableScanError("a DICOM series needs one file at least, got none")
    slices = sorted((_read_slice(Path(path)) for path in files), key=lambda s: s.plane.place_mm)
    first = slices[0]
    folder = Path(files[0]).parent
    where = f"{folder} ({first.modality or 'DICOM'}, {len(slices)} slices)"
    affine_lps_xyz = stack_affine([one.plane for one in slices], where=where)
    affine = reverse_index_order(swap_ras_lps(affine_lps_xyz))
    check_affine(affine, where=where)
    return Scan(
        name=name or folder.name,
        voxels_czyx=_narrowest([one.pixels_yx for one in slices])[None],
        affine=affine,
        channels=(first.modality or "0",),
        modality=first.modality,
        metadata=first.metadata,
        warnings=_lone_slice_warning(slices),
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
    affine_lps_xyz = swap_ras_lps(reverse_index_order(scan.affine))
    directions = affine_lps_xyz[:3, :3] / np.linalg.norm(affine_lps_xyz[:3, :3], axis=0)
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:
        raise GeometryError(f"{scan.name}: a sheared grid cannot be written as a DICOM series")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:06d}.dcm" for k in range(len(voxels))]
    for k, path in enumerate(paths):
        position = affine_lps_xyz[:3, 3] + k * affine_lps_xyz[:3, 2]
        dataset = _new_dataset(scan, k)
        dataset.ImagePositionPatient = _decimals(position)
        dataset.ImageOrientationPatient = _decimals(directions[:, :2].T.ravel())
        dataset.PixelSpacing = _decimals(scan.spacing_mm[1:])
        dataset.SliceThickness = _decimals(scan.spacing_mm[:1])[0]
        dataset.Rows, dataset.Columns = voxels.shape[1:]
        dataset.PixelData = np.ascontiguousarray(voxels[k], dtype="<i2").tobytes()
        dataset.save_as(path, enforce_file_format=True)
    return paths


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


@dataclass(frozen=True, slots=True)
class _Slice:
    """What one file holds: rescaled pixels, and where they lie."""

    plane: SlicePlane
    pixels_yx: NDArray[np.generic]
    modality: str
    metadata: dict[str, Json]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what pydicom raises for a broken file into UnreadableScanError; hush its warnings.

    pydicom warns of values that break the standard's letter (a UID too long); what matters of
    them is checked here, and a Job over thousands of files must not print each.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _UNREADABLE as error:
        raise UnreadableScanError(
            f"{path}: not a readable DICOM image ({type(error).__name__}: {str(error)[:200]}); "
            "copy it again from its source"
        ) from error


def _read_header(path: Path) -> _Header:
    with _translated(path):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_SORTING_TAGS)
        class_uid = dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")
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


def _read_slice(path: Path) -> _Slice:
    with _translated(path):
        dataset = pydicom.dcmread(path)
        _refuse_unsupported(dataset, path)
        pixels = _rescale(dataset.pixel_array, dataset)
        return _Slice(
            _plane_of(dataset, pixels, path),
            pixels,
            _code(dataset.get("Modality")),
            _technical(dataset),
        )


def _refuse_unsupported(dataset: Any, path: Path) -> None:
    if "PixelData" not in dataset or "PhotometricInterpretation" not in dataset:
        raise UnreadableScanError(f"{path}: ends before its pixels; copy it again from its source")
    photometric = dataset.PhotometricInterpretation
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise VoxelError(f"{path}: {frames} frames in one file; only one frame a file is read yet")
    if photometric != "MONOCHROME2" or dataset.get("SamplesPerPixel", 1) != 1:
        raise VoxelError(f"{path}: {photometric} pixels; expected grey values (MONOCHROME2)")
    if "ModalityLUTSequence" in dataset:
        raise VoxelError(f"{path}: a modality lookup table; expected RescaleSlope and Intercept")


def _plane_of(dataset: Any, pixels: NDArray[np.generic], path: Path) -> SlicePlane:
    orientation = _numbers(dataset, "ImageOrientationPatient", 6, path)
    spacing = _numbers(dataset, "PixelSpacing", 2, path)
    if spacing.min() <= 0:
        raise GeometryError(f"{path}: PixelSpacing {spacing.tolist()} mm; expected more than 0")
    pitch = dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 0.0
    return SlicePlane(
        label=path.name,
        position=_numbers(dataset, "ImagePositionPatient", 3, path),
        row=orientation[:3],
        column=orientation[3:],
        spacing_yx_mm=(float(spacing[0]), float(spacing[1])),
        shape_yx=(pixels.shape[0], pixels.shape[1]),
        nominal_pitch_mm=abs(float(pitch)),
    )


def _numbers(dataset: Any, keyword: str, count: int, path: Path) -> NDArray[np.float64]:
    values = np.array([float(v) for v in dataset.get(keyword) or ()])
    if values.size != count or not np.isfinite(values).all():
        raise GeometryError(f"{path}: {keyword} is {values.tolist()}; expected {count} numbers")
    return values


def _rescale(pixels: NDArray[np.generic], dataset: Any) -> NDArray[np.generic]:
    """Stored pixels to units (HU, SUV): int32 where exact, else float32; PS3.3, C.11.1."""
    slope = dataset.get("RescaleSlope")
    slope, intercept = 1.0 if slope is None else float(slope), dataset.get("RescaleIntercept")
    intercept = float(intercept or 0)
    if slope == 1 and intercept.is_integer() and pixels.dtype.kind in "iu":
        return pixels if intercept == 0 else pixels.astype(np.int32) + np.int32(intercept)
    return (pixels.astype(np.float64) * slope + intercept).astype(np.float32)


def _narrowest(slices: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """The stack (z, y, x): float32, or the first of int16, uint16, int32 that holds all of it."""
    if any(one.dtype.kind == "f" for one in slices):
        return np.stack(slices).astype(np.float32)
    low, high = min(int(one.min()) for one in slices), max(int(one.max()) for one in slices)
    fitting = [
        dtype
        for dtype in (np.int16, np.uint16, np.int32, np.int64)
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max
    ]
    return np.stack([one.astype(fitting[0], copy=False) for one in slices])


def _code(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return text if _CODE_STRING.fullmatch(text) else ""


def _technical(dataset: Any) -> dict[str, Json]:
    metadata: dict[str, Json] = {"format": "dicom"}
    metadata |= {key: float(v) for key in _NUMBERS if (v := dataset.get(key)) not in (None, "")}
    return metadata | {key: code for key in _CODES if (code := _code(dataset.get(key)))}


def _lone_slice_warning(slices: Sequence[_Slice]) -> tuple[str, ...]:
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
