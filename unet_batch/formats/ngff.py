"""OME-Zarr images (NGFF 0.4 on Zarr v2, 0.5 on Zarr v3) to Scans, through zarr-python.

An image is described, so that its voxels can stay where they lie, or copied. The finest
resolution counts. It is copied chunk by chunk; a large one goes into an unnamed file on disk
rather than into memory, mapped as an array: the kernel gives its pages back when they are
needed, and the file is gone with the array.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

import unet_batch.formats.blosc_frames  # noqa: F401 (registers codecs)
from unet_batch.errors import GeometryError, ScanError, UnreadableScanError, VoxelError
from unet_batch.formats.dicom_file import code
from unet_batch.formats.geometry import check_affine
from unet_batch.formats.kinds import stem_of
from unet_batch.formats.remote import AnyPath
from unet_batch.formats.scan import Affine, Scan
from unet_batch.planning.volume_info import OutsideImage

MAX_BYTES_IN_MEMORY = 2**30
MAX_CHUNK_BYTES = 2**31
"""One chunk is decoded whole; nobody writes such ones on purpose."""

_DOCUMENTS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
OWN_KEY = "unet_batch"
_MM_PER_UNIT = {
    "picometer": 1e-9, "angstrom": 1e-7, "nanometer": 1e-6, "nm": 1e-6, "micrometer": 1e-3,
    "micron": 1e-3, "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "millimeter": 1.0, "mm": 1.0,
    "centimeter": 10.0, "cm": 10.0, "decimeter": 100.0, "meter": 1000.0, "m": 1000.0,
    "inch": 25.4, "foot": 304.8, "yard": 914.4,
}  # fmt: skip
_NO_UNIT = ("", "None", "pixel", "px", "voxel", "arbitrary")
_DIRECTIONS = {
    "left-to-right": (1, 0, 0), "right-to-left": (-1, 0, 0),
    "posterior-to-anterior": (0, 1, 0), "anterior-to-posterior": (0, -1, 0),
    "inferior-to-superior": (0, 0, 1), "superior-to-inferior": (0, 0, -1),
}  # fmt: skip
_AS_A_PICTURE = {"z": (0, 0, 1), "y": (0, -1, 0), "x": (-1, 0, 0)}  # see `pictures`
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError,
    NotImplementedError, MemoryError, OverflowError, zlib.error,
)  # fmt: skip


def is_zarr(folder: AnyPath) -> bool:
    """Whether `folder` is a Zarr group or array."""
    return any((folder / name).is_file() for name in _DOCUMENTS)


def read_ome_zarr(path: Path | str, *, name: str | None = None, store: Store | None = None) -> Scan:
    """The Scan in the group `path`: its first multiscale image at full resolution, copied.

    Orientation is what the axes say (RFC-4), or the affine where unet-batch wrote the image;
    else that of a picture, with a warning. `store` is what zarr-python reads where `path` is
    the address of an image that lies on no disk.

    Raises
    ------
    UnreadableScanError: no OME-Zarr, damaged, links in it, or larger than disk or memory.
    GeometryError: scales that are no spacing, or in a unit of no known length.
    VoxelError: several time points, axes of no known meaning, complex voxels.
    """
    with translated(path):
        image = open_image(path, store)
        return _scan_of(image, path, copy_voxels(image, path), name)


def describe_ome_zarr(
    path: Path | str, *, name: str | None = None, store: Store | None = None
) -> Scan:
    """The same Scan without its voxels: `outside` says where they lie. Raises as it does."""
    with translated(path):
        image = open_image(path, store)
        _check_axes(image.letters, image.array, path)
        _check_chunks(image.array, path)
        place = dict(zip(image.letters, image.array.shape, strict=True))
        shape = tuple(place.get(letter, 1) for letter in "czyx")
        scan = _scan_of(image, path, np.broadcast_to(np.zeros((), image.array.dtype), shape), name)
        return replace(scan, outside=OutsideImage(str(path), image.path, image.letters))


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn what zarr-python raises for a broken image into UnreadableScanError."""
    try:
        yield
    except ScanError:
        raise
    except _UNREADABLE as error:
        raise UnreadableScanError(
            f"{path}: not a readable OME-Zarr image ({type(error).__name__}: {str(error)[:200]}); "
            "copy it again from its source"
        ) from error


def _scan_of(
    image: Image, path: Path | str, voxels_czyx: NDArray[np.generic], name: str | None
) -> Scan:
    affine, odd = affine_of(image, path)
    check_affine(affine, where=str(path))
    own = image.attributes.get(OWN_KEY) or {}
    return Scan(
        name=name or stem_of(PurePosixPath(path)),
        voxels_czyx=voxels_czyx,
        affine=affine,
        channels=_channel_names(own, len(voxels_czyx)),
        modality=code(own.get("modality")),
        metadata={"format": "ome-zarr", "ngff_version": image.version},
        warnings=odd,
    )


@dataclass(frozen=True, slots=True)
class Image:
    """One multiscale image: its array of full resolution, and what is said of its axes."""

    path: str
    array: Any
    axes: Sequence[Mapping[str, Any]]
    transforms: Sequence[Mapping[str, Any]]
    attributes: Mapping[str, Any]
    version: str

    @property
    def letters(self) -> str:
        """The axes' names, one letter each."""
        return "".join(str(axis["name"]) for axis in self.axes)


def _refuse_links(path: Path) -> None:
    for folder, subfolders, names in os.walk(path):
        links = [name for name in (*subfolders, *names) if Path(folder, name).is_symlink()]
        if links:
            raise UnreadableScanError(
                f"{path}: holds the link {Path(folder, links[0])}; replace links by what they "
                "point to"
            )


def open_image(path: Path | str, store: Store | None, inner: str = "") -> Image:
    """The multiscale image in the group `inner` of `path`; to be called where `translated`."""
    if store is None:
        _refuse_links(Path(path))
    return _open(store or str(path), path, inner)


def _open(store: Store | str, path: Path | str, inner: str = "") -> Image:
    group: Any = zarr.open_group(store, path=inner, mode="r")
    attributes: dict[str, Any] = dict(group.attrs)
    found: dict[str, Any] = attributes.get("ome", attributes)
    if "multiscales" not in found and "bioformats2raw.layout" in found and not inner:
        return _open(store, path, "0")
    if not found.get("multiscales"):
        raise UnreadableScanError(
            f"{path}: a Zarr folder without `multiscales`; expected an OME-Zarr image, not a "
            "plate, a table or a bare array"
        )
    multiscale = found["multiscales"][0]
    finest = multiscale["datasets"][0]
    inside = PurePosixPath(str(finest["path"]))
    if inside.is_absolute() or ".." in inside.parts:
        raise UnreadableScanError(f"{path}: its data set {str(inside)[:100]!r} lies outside of it")
    transforms = (
        *finest.get("coordinateTransformations", ()),
        *multiscale.get("coordinateTransformations", ()),
    )
    version = str(found.get("version") or multiscale.get("version") or "")
    whole = str(PurePosixPath(inner) / inside)
    return Image(whole, group[str(inside)], multiscale["axes"], transforms, attributes, version)


def copy_voxels(image: Image, path: Path | str) -> NDArray[np.generic]:
    """The voxels (c, z, y, x), read chunk by chunk along z."""
    letters, array = image.letters, image.array
    _check_axes(letters, array, path)
    target = _room_for(array, path)
    step_axis = letters.index("z") if "z" in letters else 0
    unit = (array.shards or array.chunks)[step_axis]
    for start in range(0, array.shape[step_axis], unit):
        region = tuple(
            slice(start, start + unit) if axis == step_axis else slice(None)
            for axis in range(array.ndim)
        )
        target[region] = array[region]
    order = sorted(range(len(letters)), key=lambda axis: "tczyx".index(letters[axis]))
    ordered = target.transpose(order)
    if "t" in letters:
        ordered = ordered[0]
    for position, letter in enumerate("cz"):
        if letter not in letters:
            ordered = np.expand_dims(ordered, position)
    return ordered


def _check_axes(letters: str, array: Any, path: Path | str) -> None:
    known = len(set(letters)) == len(letters) == array.ndim and set("yx") <= set(letters)
    if not known or set(letters) - set("tczyx"):
        raise VoxelError(f"{path}: axes {letters!r} of {array.shape}; expected t, c, z, y, x")
    if "t" in letters and array.shape[letters.index("t")] != 1:
        raise VoxelError(
            f"{path}: {array.shape[letters.index('t')]} time points; save each as an image"
        )
    if array.dtype.kind not in "biuf":
        raise VoxelError(f"{path}: {array.dtype} voxels; expected real grey values")


def _room_for(array: Any, path: Path | str) -> NDArray[np.generic]:
    """Space for all voxels: in memory, or on disk where they are many."""
    num_bytes = _check_chunks(array, path)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if num_bytes > MAX_BYTES_IN_MEMORY + free:
        raise UnreadableScanError(
            f"{path}: shape {array.shape} is {num_bytes} bytes; allowed is what fits into "
            f"{tempfile.gettempdir()} ({free} bytes free): corrupt, or set TMPDIR to a larger disk"
        )
    if num_bytes <= MAX_BYTES_IN_MEMORY:
        return np.empty(array.shape, array.dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, array.dtype, mode="w+", shape=array.shape)


def _check_chunks(array: Any, path: Path | str) -> int:
    """The bytes of all voxels. Raises UnreadableScanError for none, or for absurd chunks."""
    num_bytes: int = int(np.prod(array.shape, dtype=object)) * array.dtype.itemsize
    chunk_bytes = int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize
    if num_bytes < 1 or chunk_bytes > MAX_CHUNK_BYTES:
        raise UnreadableScanError(
            f"{path}: shape {array.shape} in chunks of {array.chunks} is {num_bytes} bytes in "
            f"chunks of {chunk_bytes}; allowed are chunks of {MAX_CHUNK_BYTES}: corrupt"
        )
    return num_bytes


def affine_of(image: Image, path: Path | str) -> tuple[Affine, tuple[str, ...]]:
    """Index (z, y, x) to RAS+ mm, and what was assumed."""
    scale, origin, odd = _scale_and_origin(image, path)
    stored = (image.attributes.get(OWN_KEY) or {}).get("affine")
    if isinstance(stored, list) and len(stored) == 16:
        affine = np.array(stored, dtype=np.float64).reshape(4, 4)
        if np.allclose(np.linalg.norm(affine[:3, :3], axis=0), scale, rtol=1e-6):
            return affine, ()
    said = {a["name"]: (a.get("orientation") or {}).get("value") for a in image.axes}
    directions = [_DIRECTIONS.get(str(said.get(axis))) for axis in "zyx"]
    if None in directions or abs(np.linalg.det(np.array(directions, dtype=float))) != 1:
        directions = [_AS_A_PICTURE[axis] for axis in "zyx"]
        odd.append("no anatomical orientation: x is taken to go to the left, y to the back")
    affine = np.eye(4)
    affine[:3, :3] = np.array(directions).T * scale
    affine[:3, 3] = np.array(directions).T @ origin
    return affine, tuple(odd)


def _scale_and_origin(
    image: Image, path: Path | str
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Spacing and place of voxel 0 along z, y, x, in mm."""
    scale, origin = np.ones(len(image.axes)), np.zeros(len(image.axes))
    for transform in image.transforms:
        if transform["type"] == "scale":
            factor = np.array(transform["scale"], dtype=np.float64)
            scale, origin = scale * factor, origin * factor
        elif transform["type"] == "translation":
            origin = origin + np.array(transform["translation"], dtype=np.float64)
        elif transform["type"] != "identity":
            raise GeometryError(f"{path}: transformation {transform['type']!r} of NGFF is unknown")
    odd, millimetres = [], np.ones(len(image.axes))
    for number, axis in enumerate(image.axes):
        unit = str(axis.get("unit"))
        if axis["name"] not in "zyx":
            continue
        if unit in _NO_UNIT:
            odd.append(f"axis {axis['name']} has unit {unit!r}: taken as millimetres")
        elif unit not in _MM_PER_UNIT:
            raise GeometryError(
                f"{path}: axis {axis['name']} has unit {unit[:20]!r}, expected one of "
                + ", ".join(_MM_PER_UNIT)
            )
        millimetres[number] = _MM_PER_UNIT.get(unit, 1.0)
    places = {axis["name"]: number for number, axis in enumerate(image.axes)}
    found = [(places.get(axis)) for axis in "zyx"]
    scales = [1.0 if k is None else float(scale[k] * millimetres[k]) for k in found]
    origins = [0.0 if k is None else float(origin[k] * millimetres[k]) for k in found]
    return np.array(scales), np.array(origins), odd


def _channel_names(own: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Names that unet-batch gave, else numbers: the labels of others are free text."""
    names = own.get("channels")
    if isinstance(names, list) and len(names) == count:
        return tuple(map(str, names))
    return tuple(str(number) for number in range(count))
