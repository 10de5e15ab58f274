"""Images outside the Archive: OME-Zarr taken in place, read where it lies, never written.

An Archive holds of such a Volume its description and its Labels; the voxels stay in an image
that others own, which may vanish or change. So ingest keeps a digest of what it found there
(`version`), and each process compares before its first read, and then once a minute: a changed
image is an error that names it, never other voxels under the same Labels.

    digest of   metadata documents, by content
                every chunk: name, size, and time of the file or ETag of the object

A chunk that was stored and is gone is an error; one that never was is all background, as Zarr
says.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from unet_batch.errors import NotFoundError, StoreError, UnreadableScanError
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.ngff import describe_ome_zarr, read_ome_zarr, translated
from unet_batch.formats.ngff_labels import EmbeddedMasks, read_embedded_masks
from unet_batch.formats.scan import Scan
from unet_batch.planning.volume_info import OutsideImage
from unet_batch.storage.complete_store import CompleteStore
from unet_batch.storage.content import Content, content_of, stored_dtype
from unet_batch.storage.layout import layout_for
from unet_batch.storage.object_store import Facts, ObjectStore
from unet_batch.storage.selection import bounding_box
from unet_batch.storage.stores import normalize_url, open_store

MAX_SLAB_BYTES = 2**28
"""Voxels held at once while an image is looked through at ingest."""

MAX_SPARSENESS = 100_000
"""Bytes of voxels for each stored byte: an empty image of a damaged shape has far more."""

RECHECK_S = 60.0
"""How long an image that was compared is believed; a look costs a listing of all its chunks."""

_ALWAYS_ALLOWED_BYTES = 2**30
_DOCUMENTS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def describe_outside(place: Path | str, *, name: str) -> Scan:
    """The image at `place` as a Scan whose voxels stay there.

    Raises ScanError where it cannot be used, NotFoundError or StoreError where its store fails.
    """
    url = normalize_url(place)
    store = open_store(url)
    scan = describe_ome_zarr(url, name=name, store=_unless_local(store))
    if scan.outside is None:
        return scan
    stored = store.list_facts(scan.outside.path)
    version = _version(store, scan.outside, stored)
    num_bytes = sum(facts.size for facts in stored.values())
    if scan.voxels_czyx.nbytes > num_bytes * MAX_SPARSENESS + _ALWAYS_ALLOWED_BYTES:
        raise UnreadableScanError(
            f"{url}: shape {scan.voxels_czyx.shape} is {scan.voxels_czyx.nbytes} bytes, its "
            f"chunks hold {num_bytes}: corrupt"
        )
    with translated(url):
        chunks = _array(store.zarr_store, scan.outside).chunks
    block = _block(scan.voxels_czyx.shape, dict(zip(scan.outside.axes, chunks, strict=True)))
    return replace(scan, outside=replace(scan.outside, version=version, block_czyx=block))


def copy_outside(place: Path | str, *, name: str) -> Scan:
    """The image at `place`, with its voxels. Raises as `describe_outside`."""
    url = normalize_url(place)
    return read_ome_zarr(url, name=name, store=_unless_local(open_store(url)))


def masks_outside(place: Path | str, scan: Scan, rules: Mapping[str, MaskRules]) -> EmbeddedMasks:
    """The masks in the `labels/` of the image at `place`, which `scan` describes."""
    url = normalize_url(place)
    return read_embedded_masks(url, scan, rules, store=_unless_local(open_store(url)))


def content_of_outside(scan: Scan, outside: OutsideImage) -> Content:
    """The Content of a Scan that `describe_outside` made, slab by slab. Raises ScanError."""
    array = OutsideArray(outside, scan.voxels_czyx.shape, stored_dtype(scan.voxels_czyx.dtype).name)
    with translated(outside.url):
        return content_of(scan, (array.slabs(n) for n in range(scan.voxels_czyx.shape[0])))


@dataclass(frozen=True, slots=True)
class OutsideArray:
    """The voxels of an OutsideImage as (c, z, y, x), read where they lie."""

    image: OutsideImage
    shape: tuple[int, ...]
    dtype_name: str

    def read(self, selection: Any) -> NDArray[Any]:
        """The voxels of a NumPy selection, copied; only the chunks they lie in are read.

        Raises NotFoundError or StoreError where the image vanished or changed.
        """
        bounds, rest = bounding_box(selection, self.shape)
        own = dict(zip("czyx", bounds, strict=True))
        letters = self.image.axes
        found = self._read_own(tuple(own.get(letter, 0) for letter in letters))
        kept = [letter for letter in letters if letter in own]
        order = [kept.index(letter) for letter in "czyx" if letter in kept]
        block = np.asarray(found, dtype=self.dtype_name).transpose(order)
        lacking = tuple(n for n, letter in enumerate("czyx") if letter not in kept)
        whole = np.expand_dims(block, lacking)
        box = tuple(part if n in lacking else slice(None) for n, part in enumerate(bounds))
        return np.asarray(whole[box][rest], order="C")

    def _read_own(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """A selection of the array as it is stored."""
        try:
            array = _opened(self.image, int(time.monotonic() / RECHECK_S))
            return np.asarray(array[selection])
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{self.image.url}: this image was taken in place, and {error} of it is gone; "
                "bring it back, or ingest the image again"
            ) from error

    def slabs(self, channel: int) -> Iterator[NDArray[Any]]:
        """One channel (z, y, x), in pieces along z: whole blocks where they are not too large."""
        _, z, y, x = self.shape
        affordable = MAX_SLAB_BYTES // (y * x * np.dtype(self.dtype_name).itemsize)
        thickness = max(1, min(self.image.block_czyx[1], affordable))
        for start in range(0, z, thickness):
            yield self.read((channel, slice(start, start + thickness)))


def _block(shape: Sequence[int], chunks: dict[str, int]) -> tuple[int, int, int, int]:
    """What is read at once: whole chunks, as many along each axis as make about a Shard."""
    wanted = (1, *layout_for((shape[1], shape[2], shape[3])).shard_zyx)
    c, z, y, x = (
        min(size, chunks.get(letter, 1) * -(-edge // chunks.get(letter, 1)))
        for letter, size, edge in zip("czyx", shape, wanted, strict=True)
    )
    return c, z, y, x


def _unless_local(store: ObjectStore) -> Store | None:
    return store.zarr_store if "://" in store.url else None


@lru_cache(maxsize=256)
def _opened(image: OutsideImage, _minute: int) -> zarr.Array[Any]:
    """The array of `image`, after a look at whether it is still the one that was ingested.

    The number of the minute makes a process that lives long look again.
    """
    store = open_store(image.url)
    try:
        stored = store.list_facts(image.path)
        if _version(store, image, stored) == image.version:
            return _array(CompleteStore(store.zarr_store, frozenset(stored).__contains__), image)
    except (NotFoundError, FileNotFoundError) as error:
        raise NotFoundError(
            f"{image.url}: this image was taken in place and is gone; bring it back, or ingest "
            "it from where it is now"
        ) from error
    raise StoreError(
        f"{image.url}: this image was taken in place and has changed since (or was copied anew); "
        "bring back what it was, or ingest it again"
    )


def _array(store: Store, image: OutsideImage) -> zarr.Array[Any]:
    return zarr.open_array(store=store, path=image.path, mode="r")


def _version(store: ObjectStore, image: OutsideImage, stored: Facts) -> str:
    """Digest of the image's documents, and of the chunks that are `stored` of its array."""
    digest = hashlib.blake2b(digest_size=16)
    found = 0
    for folder in ["", *_parents(image.path)]:
        for name in _DOCUMENTS:
            path = f"{folder}/{name}" if folder else name
            try:
                document = _settled(store.get(path))
            except NotFoundError:
                continue
            found += 1
            digest.update(f"{path}\n".encode() + document)
    if not found:
        raise NotFoundError(f"no Zarr group at {image.url}")
    for path, facts in sorted(stored.items()):
        if path.rpartition("/")[2] not in _DOCUMENTS:
            digest.update(f"{path} {facts.size} {facts.version}\n".encode())
    return digest.hexdigest()


def _parents(path: str) -> list[str]:
    """`0/a/b` as `0`, `0/a`, `0/a/b`."""
    parts = path.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _settled(document: bytes) -> bytes:
    """A metadata document without its copy of the documents below it, which others may add to."""
    try:
        content = json.loads(document)
    except ValueError:
        return document
    if isinstance(content, dict):
        content.pop("consolidated_metadata", None)
    return json.dumps(content, sort_keys=True).encode()
