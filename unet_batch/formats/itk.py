"""NRRD and MetaImage files (.nrrd, .nhdr, .mha, .mhd) to Scans, and NRRD back, through SimpleITK.

ITK's images are LPS+ with index (x, y, z). The header is looked at first: ITK would take the
memory that a damaged one asks for, and would follow a data file's path to wherever it leads.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.geometry import check_affine, reverse_index_order, swap_ras_lps
from unet_batch.formats.kinds import stem_of
from unet_batch.formats.scan import Affine, Scan

sitk: Any = SimpleITK
_IO = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_MAGIC = {"NrrdImageIO": re.compile(rb"NRRD000\d"), "MetaImageIO": re.compile(rb"\s*\w+\s*=")}
_DATA_FILE = re.compile(
    rb"^[ \t]*(?:data ?file|ElementDataFile)[ \t]*[:=][ \t]*([^\r\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_END_OF_NRRD_HEADER = re.compile(rb"\r?\n\r?\n")
_INSIDE = ("local", "")
MAX_HEADER = 2**16
_MAX_PACKING = 1032  # zlib's technical notes: deflate cannot shrink further


def read_itk(path: Path, *, name: str | None = None) -> Scan:
    """The Scan in `path`; vectors of 2 and more components become channels, 2-D gets one slice.

    Raises
    ------
    UnreadableScanError: truncated, corrupt, of another kind, or its data file is not beside it.
    GeometryError: an affine that is NaN or flat.
    VoxelError: complex voxels.
    """
    _check_content(path)
    try:
        image = _read(path)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else "no reason"
        raise UnreadableScanError(
            f"{path}: not a readable NRRD or MetaImage file ({reason.replace(str(path), 'it')}); "
            "copy it again from its source"
        ) from error
    voxels = sitk.GetArrayFromImage(image)
    if voxels.dtype.kind not in "iuf":
        raise VoxelError(f"{path}: {voxels.dtype} voxels; expected real grey values")
    is_vector = image.GetNumberOfComponentsPerPixel() > 1
    voxels_czyx = np.moveaxis(voxels, -1, 0) if is_vector else voxels[None]
    voxels_czyx = voxels_czyx if voxels_czyx.ndim == 4 else voxels_czyx[:, None]
    affine = _affine_of(image)
    check_affine(affine, where=str(path))
    return Scan(
        name=name or stem_of(path),
        voxels_czyx=np.ascontiguousarray(voxels_czyx),
        affine=affine,
        channels=tuple(str(n) for n in range(len(voxels_czyx))),
        metadata={"format": path.suffix.lower()[1:]},
    )


def data_file_name(path: PurePath, head: bytes) -> str:
    """What the header of `path`, which begins with `head`, names as its data file, if it does."""
    if _IO[path.suffix.lower()] == "NrrdImageIO":
        head = _END_OF_NRRD_HEADER.split(head, maxsplit=1)[0]
    found = _DATA_FILE.search(head)
    named = found[1].decode("utf-8", "replace").strip() if found else ""
    return "" if named.lower() in _INSIDE else named


def write_nrrd(path: Path, voxels: NDArray[np.generic], affine: Affine) -> None:
    """Write `voxels` (zyx, or czyx as vectors) with `affine` as a gzipped NRRD of LPS space."""
    voxels = voxels[0] if voxels.ndim == 4 and len(voxels) == 1 else voxels
    voxels = voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels
    voxels = voxels.astype(np.float32) if voxels.dtype == np.float16 else voxels
    is_vector = voxels.ndim == 4
    ordered = np.ascontiguousarray(np.moveaxis(voxels, 0, -1) if is_vector else voxels)
    image = sitk.GetImageFromArray(ordered, isVector=is_vector)
    affine_lps_xyz = swap_ras_lps(reverse_index_order(affine))
    spacing = np.linalg.norm(affine_lps_xyz[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine_lps_xyz[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine_lps_xyz[:3, 3].tolist())
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        sitk.WriteImage(image, str(unfinished), useCompression=True, imageIO="NrrdImageIO")
    except RuntimeError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{path}: {str(error).strip().splitlines()[-1]}") from error
    unfinished.replace(path)  # so that a reader never sees half a file


def _check_content(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER)
    except OSError as error:
        raise UnreadableScanError(f"{path}: cannot be opened: {error}") from error
    if not _MAGIC[_IO[path.suffix.lower()]].match(head):
        raise UnreadableScanError(f"{path}: expected NRRD or MetaImage, it begins {head[:16]!r}")


def _read(path: Path) -> Any:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_IO[path.suffix.lower()])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _refuse_impossible_size(reader, path)
    image = reader.Execute()
    if image.GetDimension() not in (2, 3):
        raise GeometryError(f"{path}: {image.GetDimension()} dimensions; expected 2 or 3")
    return image


def _refuse_impossible_size(reader: Any, path: Path) -> None:
    """Refuse a header that promises more than its data can hold, before memory is taken."""
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    itemsize = _itemsize(reader.GetPixelID(), path)
    promised = int(np.prod(size, dtype=object)) * components * itemsize
    held = _data_file(path).stat().st_size
    if not 0 < promised <= held * _MAX_PACKING:
        raise UnreadableScanError(
            f"{path}: the header promises {promised} bytes of voxels (size {size}), "
            f"its {held} bytes of data cannot hold them: truncated or corrupt"
        )


def _itemsize(pixel_id: int, path: Path) -> int:
    name = sitk.GetPixelIDValueAsString(pixel_id)
    bits = re.search(r"(8|16|32|64)[- ]bit", name)
    if bits is None or "complex" in name:
        raise VoxelError(f"{path}: voxels are {name}; expected real grey values")
    return int(bits[1]) // 8


def _data_file(path: Path) -> Path:
    """The file that holds the voxels: `path` itself, or one beside it. Never one elsewhere."""
    with path.open("rb") as file:
        named = data_file_name(path, file.read(MAX_HEADER))
    if not named:
        return path
    data = path.with_name(named) if Path(named).name == named else None
    if data is None or not data.is_file() or data.resolve().parent != path.resolve().parent:
        raise UnreadableScanError(
            f"{path}: its data file {named[:100]!r} is not a file in the same folder; "
            "put it there, or save header and data as one .nrrd or .mha"
        )
    return data


def _affine_of(image: Any) -> Affine:
    """Index (z, y, x) to RAS+ mm; a 2-D image lies in the plane of its first two axes."""
    num = image.GetDimension()
    affine_lps_xyz = np.eye(4)
    direction = np.reshape(image.GetDirection(), (num, num))
    affine_lps_xyz[:num, :num] = direction * np.array(image.GetSpacing())
    affine_lps_xyz[:num, 3] = image.GetOrigin()
    return reverse_index_order(swap_ras_lps(affine_lps_xyz))
