"""NIfTI-1 and -2 files to Scans and Masks, and back, through nibabel.

A file's axes (i, j, k, channel) become (channel, k, j, i): a transposition without a copy,
because NIfTI stores i fastest. The header's free text (`descrip`, `db_name`, `intent_name`,
`aux_file`) can hold names and never leaves this module.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.geometry import check_affine, reverse_index_order
from unet_batch.formats.kinds import stem_of
from unet_batch.formats.labels import MaskRules, as_mask
from unet_batch.formats.scan import Affine, Mask, Scan
from unet_batch.planning.volume_info import Json

_MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_MAX_DEFLATE_RATIO = 1032  # zlib's technical notes: deflate cannot shrink further
_OPPOSITE_COSINE = -0.5  # more than 120 degrees apart
_MAX_APART_MM = 1.0  # forms rounded to float32, or by a registration of no account
_GZIP_MAGIC = b"\x1f\x8b"
_LARGEST_HEADER = 540  # of NIfTI-2; NIfTI-1 has 348 bytes
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError,
               HeaderDataError, MemoryError, OverflowError)  # fmt: skip


def read_nifti(path: Path, *, name: str | None = None) -> Scan:
    """The Scan in `path`: 3-D, or 4-D with its last axis as channels; 2-D gets one slice.

    Voxels keep their type on disk, or become float32 where slope and intercept rescale
    them. The affine is the sform, else the qform; micrometres and metres become mm.

    Raises
    ------
    UnreadableScanError: not NIfTI, truncated or corrupt.
    GeometryError: an affine that is NaN or flat, or a qform that mirrors the sform.
    VoxelError: colour or complex voxels.
    """
    with _opened(path) as image:
        affine, warnings = _read_affine(image, path)
        voxels_czyx = _as_czyx(_read_voxels(image, path), path)
    return Scan(
        name=name or stem_of(path),
        voxels_czyx=voxels_czyx,
        affine=affine,
        channels=tuple(str(n) for n in range(len(voxels_czyx))),
        metadata=_metadata(image.header),
        warnings=warnings,
    )


def read_nifti_mask(path: Path, *, class_names: Mapping[int, str] | None = None) -> Mask:
    """The Mask in `path`: uint8, or uint16 where values exceed 255; 0 is the background.

    Integral float masks are accepted, as many tools write them. `classes` are those of
    `class_names`, or else one for each value in the file, named `background`, `class_1`, ...

    Raises
    ------
    UnreadableScanError, GeometryError: as `read_nifti`.
    VoxelError: more than one channel, or values that are not whole numbers of 0 to 65535,
        or that `class_names` does not name.
    """
    scan = read_nifti(path)
    if len(scan.voxels_czyx) > 1:
        raise VoxelError(
            f"{path}: a mask has one channel, this has {len(scan.voxels_czyx)}; "
            "write one value a class into a 3-D file"
        )
    rules = MaskRules(class_names or {})
    return as_mask(scan.voxels_czyx[0], scan.affine, rules, where=str(path))


def write_nifti(
    path: Path,
    voxels: NDArray[np.generic],
    affine: Affine,
    *,
    metadata: Mapping[str, Json] | None = None,
) -> None:
    """Write `voxels` (zyx or czyx) with `affine` as sform, and as qform where it is rigid.

    NIfTI-1 stores the affine as float32: 7 digits. `metadata` (of a Scan that was read from
    NIfTI) restores the sform and qform codes, i.e. the space that they speak of.
    """
    metadata = metadata or {}
    voxels = voxels[0] if voxels.ndim == 4 and len(voxels) == 1 else voxels
    affine_xyz = reverse_index_order(affine)
    image: Any = nibabel.Nifti1Image(_storable(voxels).T, affine_xyz)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    codes = [code for key in ("sform_code", "qform_code") if (code := metadata.get(key))]
    image.set_sform(affine_xyz, int(str(codes[0])) if codes else 1)
    image.set_qform(affine_xyz, int(str(codes[-1])) if codes else 1)
    if not np.allclose(image.get_qform(), image.get_sform(), rtol=0, atol=1e-3):
        image.set_qform(None, 0)  # sheared: a quaternion cannot say it, and readers would differ
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    nibabel.save(image, unfinished)
    unfinished.replace(path)  # so that a reader never sees half a file


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The nibabel image in `path`, its voxels not read yet, closed again afterwards.

    A gzip stream is read on to its end, because its checksum stands there: without that, a
    flipped bit would pass as a grey value.
    """
    try:
        with path.open("rb") as file, _quiet_nibabel():
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            stream: Any = gzip.GzipFile(fileobj=file) if packed else file
            image = _image_in(stream, path)
            _refuse_impossible_size(image, path, ratio=_MAX_DEFLATE_RATIO if packed else 1)
            yield image
            while packed and stream.read(2**20):
                pass
    except FileNotFoundError as error:
        raise UnreadableScanError(f"{path}: no such file") from error
    except _UNREADABLE as error:
        raise UnreadableScanError(
            f"{path}: not a readable NIfTI file ({type(error).__name__}: {str(error)[:200]}); "
            "copy it again from its source"
        ) from error


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """No log lines or warnings on odd headers: they do not name the file; errors here do."""
    before = nibabel.imageglobals.logger.disabled
    nibabel.imageglobals.logger.disabled = True
    try:
        with np.errstate(invalid="ignore"):
            yield
    finally:
        nibabel.imageglobals.logger.disabled = before


def _image_in(stream: Any, path: Path) -> Any:
    head = stream.read(_LARGEST_HEADER)
    stream.seek(0)
    kinds: tuple[Any, ...] = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    for kind in kinds:
        if kind.header_class.may_contain_header(head):
            return kind.from_file_map({"image": FileHolder(fileobj=stream)}, mmap=False)
    raise UnreadableScanError(f"{path}: expected NIfTI, found a file that begins {head[:16]!r}")


def _refuse_impossible_size(image: Any, path: Path, *, ratio: int) -> None:
    """Refuse a header that promises more than the file can hold, before memory is taken."""
    if min(image.shape, default=0) < 1:
        raise UnreadableScanError(f"{path}: the header says shape {image.shape}: no voxels")
    promised = int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    if promised > path.stat().st_size * ratio:
        raise UnreadableScanError(
            f"{path}: the header promises {promised} bytes of voxels (shape {image.shape}), "
            f"the file of {path.stat().st_size} bytes cannot hold them: truncated or corrupt"
        )


def _read_voxels(image: Any, path: Path) -> NDArray[np.generic]:
    """Voxels in file order; native byte order; float32 where the header rescales them."""
    if image.get_data_dtype().kind not in "iuf":
        raise VoxelError(f"{path}: {image.get_data_dtype()} voxels; expected real grey values")
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    voxels = image.dataobj.get_unscaled()
    if (slope, intercept) != (1, 0):
        voxels = (voxels * np.float64(slope) + np.float64(intercept)).astype(np.float32)
    native = np.dtype(np.float64) if voxels.dtype.itemsize > 8 else voxels.dtype.newbyteorder("=")
    return np.asarray(voxels, dtype=native)


def _as_czyx(voxels: NDArray[np.generic], path: Path) -> NDArray[np.generic]:
    """(i, j, k, channel) as (channel, k, j, i); a lone time axis of 5-D files is dropped."""
    if voxels.ndim == 5 and voxels.shape[3] == 1:
        voxels = voxels[:, :, :, 0]
    if voxels.ndim > 4:
        raise UnreadableScanError(f"{path}: {voxels.ndim}-D {voxels.shape}; expected 3-D or 4-D")
    voxels = voxels.reshape(voxels.shape + (1,) * (4 - voxels.ndim), order="F")
    return np.ascontiguousarray(voxels.T)


def _read_affine(image: Any, path: Path) -> tuple[Affine, tuple[str, ...]]:
    header, warnings = image.header, tuple[str, ...]()
    try:
        if header["sform_code"] > 0:
            affine_xyz = header.get_sform()
            if header["qform_code"] > 0:
                warnings = _odd_forms(affine_xyz, header.get_qform(), image.shape, path)
        elif header["qform_code"] > 0:
            affine_xyz = header.get_qform()
        else:
            affine_xyz, warnings = _unoriented(header)
        unit = header.get_xyzt_units()[0]
    except (HeaderDataError, KeyError, ValueError, np.linalg.LinAlgError) as error:
        raise GeometryError(f"{path}: the affine cannot be read: {error}") from error
    affine_xyz = affine_xyz.astype(np.float64)
    affine_xyz[:3] *= _MM_PER_UNIT[unit]
    affine = reverse_index_order(affine_xyz)
    check_affine(affine, where=str(path))
    return affine, warnings


def _odd_forms(sform: Affine, qform: Affine, shape: tuple[int, ...], path: Path) -> tuple[str, ...]:
    """What qform says against sform, which is used. Raises GeometryError where they mirror."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0) * np.linalg.norm(qform[:3, :3], axis=0)
    with np.errstate(divide="ignore"):
        cosines = (sform[:3, :3] * qform[:3, :3]).sum(axis=0) / lengths
    if not np.isfinite(cosines).all():
        return ()  # flat or NaN: refused for itself
    if cosines.min() < _OPPOSITE_COSINE:
        axis = "ijk"[int(cosines.argmin())]
        raise GeometryError(
            f"{path}: sform and qform contradict each other: voxel axis {axis} runs the opposite "
            f"way ({sform[:3, 'ijk'.index(axis)].round(3).tolist()} against "
            f"{qform[:3, 'ijk'.index(axis)].round(3).tolist()}); left and right (or front and "
            "back, head and feet) are exchanged in one of them: correct the header"
        )
    corners = np.array([*product(*((0, n - 1) for n in (*shape, 1, 1, 1)[:3]))])
    apart = np.abs((sform - qform)[:3, :3] @ corners.T + (sform - qform)[:3, 3:]).max()
    if apart <= _MAX_APART_MM:
        return ()
    return (f"sform and qform place voxels up to {apart:.3g} mm apart: the sform is taken",)


def _unoriented(header: Any) -> tuple[Affine, tuple[str, ...]]:
    """Method 1 of the NIfTI-1 standard (nifti1.h): x = pixdim[1] * i, and so on."""
    zooms = (*header.get_zooms(), 1.0, 1.0)[:3]
    return np.diag([*map(float, zooms), 1.0]), (
        "neither sform nor qform: left and right are unknown, the axes are taken as RAS",
    )


def _metadata(header: Any) -> dict[str, Json]:
    return {
        "format": "nifti",
        "dtype_on_disk": header.get_data_dtype().newbyteorder("=").name,
        "sform_code": int(header["sform_code"]),
        "qform_code": int(header["qform_code"]),
    }


def _storable(voxels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Voxels of a type that NIfTI has and its readers expect."""
    if voxels.dtype == np.bool_:
        return voxels.astype(np.uint8)
    return voxels.astype(np.float32) if voxels.dtype == np.float16 else voxels
