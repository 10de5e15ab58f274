"""One DICOM file: opened, judged and described, before anything is stacked.

Only technical attributes leave this module, and of those only numbers and code strings,
which cannot hold a name.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import JPEGLSTransferSyntaxes

from unet_batch.errors import GeometryError, ScanError, UnreadableScanError, VoxelError
from unet_batch.formats.remote import RemotePath
from unet_batch.formats.zips import ZipMember
from unet_batch.planning.volume_info import Json

Place = Path | ZipMember | RemotePath
"""Where a DICOM object lies: a file, a member of a zip, an object in a bucket."""

_MAGIC_OFFSET, _MAGIC = 128, b"DICM"
_NUMBERS = (
    "SliceThickness", "SpacingBetweenSlices", "KVP", "MagneticFieldStrength", "RepetitionTime",
    "EchoTime", "InversionTime", "FlipAngle", "EchoTrainLength",
)  # fmt: skip
_CODES = ("PatientPosition", "BodyPartExamined", "Units", "ScanningSequence", "MRAcquisitionType")
TECHNICAL = (*_NUMBERS, *_CODES)
"""Keywords of what `technical` keeps."""

_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")  # PS3.5, 6.2: value representation CS
_MAX_ELEMENTS = 20_000  # at the top level; real headers have a few hundred
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}  # Float, Double Float and plain Pixel Data
_MAX_PACKING = 1000  # a slice of air in JPEG-LS; real ones pack 2 to 20 times
_ALWAYS_ALLOWED_BYTES = 2**26  # what even a file of a few hundred bytes may unpack to
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError,
    NotImplementedError, RuntimeError, MemoryError, OverflowError, struct.error,
    pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError,
)  # fmt: skip


def is_dicom(place: Place) -> bool:
    """Whether `place` holds DICOM's magic `DICM` behind its preamble; names prove nothing."""
    try:
        return head_of(place, _MAGIC_OFFSET + len(_MAGIC))[_MAGIC_OFFSET:] == _MAGIC
    except (OSError, ScanError):
        return False


def is_remote(place: Place) -> bool:
    """Whether its bytes come from a bucket: then it pays to ask for many at once."""
    return isinstance(place.archive if isinstance(place, ZipMember) else place, RemotePath)


def head_of(place: Place, num_bytes: int) -> bytes:
    """The first bytes of a file. Raises OSError or UnreadableScanError."""
    if isinstance(place, ZipMember):
        return place.head(num_bytes)
    with place.open("rb") as stream:
        return stream.read(num_bytes)


@contextmanager
def translated(place: Place) -> Iterator[None]:
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
            f"{place}: not a readable DICOM image ({type(error).__name__}: {str(error)[:200]}); "
            "copy it again from its source"
        ) from error


def load(
    place: Place, *, stop_before_pixels: bool = False, specific_tags: Sequence[str] | None = None
) -> Any:
    """The pydicom Dataset in `place`; to be called where errors are `translated`.

    Not dcmread: that would take a minute for every 200 MB of zeros behind a header, element by
    element. Reading ends at such padding, and what has too many elements is refused.
    """
    tags: list[Any] | None = None
    if specific_tags is not None:
        tags = [pydicom.tag.Tag(tag) for tag in specific_tags]
    left = _MAX_ELEMENTS

    def is_end(tag: Any, _vr: str | None, _length: int) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {_MAX_ELEMENTS} data elements")
        return tag == 0 or (stop_before_pixels and tag in _PIXELS)

    with place.open("rb") as stream:
        return pydicom.filereader.read_partial(stream, is_end, specific_tags=tags)


def read_pixels(
    dataset: Any, place: Place, *, photometrics: tuple[str, ...] = ("MONOCHROME2",)
) -> NDArray[np.generic]:
    """Stored pixels (frame, y, x) of an image with one value a pixel, of one or many frames.

    Raises
    ------
    UnreadableScanError: no pixels, or a header that promises more than they can hold.
    VoxelError: colour, inverted (MONOCHROME1), or a modality lookup table.
    """
    if "PixelData" not in dataset or "PhotometricInterpretation" not in dataset:
        raise UnreadableScanError(f"{place}: ends before its pixels; copy it again from its source")
    photometric = dataset.PhotometricInterpretation
    if photometric not in photometrics or dataset.get("SamplesPerPixel", 1) != 1:
        raise VoxelError(f"{place}: {photometric} pixels; expected grey values (MONOCHROME2)")
    if "ModalityLUTSequence" in dataset:
        raise VoxelError(f"{place}: a modality lookup table; expected RescaleSlope and Intercept")
    _refuse_impossible_size(dataset, place)
    if dataset.file_meta.get("TransferSyntaxUID") in JPEGLSTransferSyntaxes:
        # CharLS: libjpeg, which pydicom would ask first, never returns from some damaged frames.
        dataset.pixel_array_options(decoding_plugin="pyjpegls")
    pixels: NDArray[np.generic] = dataset.pixel_array
    return pixels if pixels.ndim == 3 else pixels[None]


def rescale(pixels: NDArray[np.generic], attributes: Any) -> NDArray[np.generic]:
    """Stored pixels to units (HU, SUV): int32 where exact, else float32; PS3.3, C.11.1."""
    slope = attributes.get("RescaleSlope")
    slope, intercept = 1.0 if slope is None else float(slope), attributes.get("RescaleIntercept")
    intercept = float(intercept or 0)
    if slope == 1 and intercept.is_integer() and pixels.dtype.kind in "iu":
        return pixels if intercept == 0 else pixels.astype(np.int32) + np.int32(intercept)
    return (pixels.astype(np.float64) * slope + intercept).astype(np.float32)


def numbers(attributes: Any, keyword: str, count: int, place: Place) -> NDArray[np.float64]:
    """The `count` finite numbers of an attribute. Raises GeometryError where they are not."""
    values = np.array([float(v) for v in attributes.get(keyword) or ()])
    if values.size != count or not np.isfinite(values).all():
        raise GeometryError(f"{place}: {keyword} is {values.tolist()}; expected {count} numbers")
    return values


def code(value: object) -> str:
    """`value` where it is a code string, which cannot hold a name; else an empty text."""
    text = value if isinstance(value, str) else ""
    return text if _CODE_STRING.fullmatch(text) else ""


def technical(dataset: Any) -> dict[str, Json]:
    """What may be kept of the acquisition: numbers and codes."""
    metadata: dict[str, Json] = {"format": "dicom"}
    metadata |= {key: float(v) for key in _NUMBERS if (v := dataset.get(key)) not in (None, "")}
    return metadata | {key: text for key in _CODES if (text := code(dataset.get(key)))}


def _refuse_impossible_size(dataset: Any, place: Place) -> None:
    """Refuse compressed pixels that promise too much, before memory is taken.

    pydicom itself compares the size of uncompressed ones with the header.
    """
    shape = (dataset.get("NumberOfFrames") or 1, dataset.Rows, dataset.Columns)
    promised = int(np.prod([int(n) for n in shape], dtype=object)) * int(dataset.BitsAllocated) // 8
    allowed = len(dataset.PixelData) * _MAX_PACKING + _ALWAYS_ALLOWED_BYTES
    if not 0 < promised <= allowed:
        raise UnreadableScanError(
            f"{place}: the header promises {promised} bytes of pixels (frames, rows, columns "
            f"{shape}), its {len(dataset.PixelData)} bytes cannot hold them: truncated or corrupt"
        )
