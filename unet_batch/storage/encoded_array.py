"""EncodedArray: an array as `Encoding` wrote it, read by the same rules.

zarr-python takes a millisecond of one core to open a small array and to read it, ten times what
decoding takes; and of a Shard it asks for one Chunk after the other, each time waiting for the
store. Here a whole object comes at once, and of a Shard its index, then all Chunks that are wanted
together:

    get_tail   [ ... ][ ... ][ ... ][ ... ][index]
    get_ranges        [chunk][chunk]

Every array that is not quite what `Encoding` writes is for zarr-python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.side_by_side import each
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.encoding import COMPRESSIONS, Encoding
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.selection import bounding_box
from unet_batch.tiling.box import Box

_AXES = "czyx"
_MOST_AXES, _FEWEST_AXES = 4, 3


@dataclass(frozen=True, slots=True)
class EncodedArray:
    """The array at `path` of `store`, (z, y, x) or (c, z, y, x); indexing reads what it needs."""

    store: ObjectStore
    path: str
    shape: tuple[int, ...]
    encoding: Encoding

    @classmethod
    def find(cls, store: ObjectStore, path: str) -> Self | None:
        """The array, where it is one of this kind; None where zarr-python is to say what it is."""
        try:
            described = _described(store.get(paths.document(path)))
        except StoreError:
            return None
        return cls(store, path, *described) if described else None

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        """The selected voxels, a copy. Raises FileNotFoundError or ValueError for an object."""
        bounds, rest = bounding_box(selection, self.shape)
        box = Box(tuple(one.start for one in bounds), tuple(one.stop for one in bounds))
        is_chunk = box.shape == self.shape == self.encoding.shard and not self.encoding.is_sharded
        voxels = self._only_chunk() if is_chunk else self._read_box(box)
        return np.ascontiguousarray(voxels[rest])

    def _only_chunk(self) -> NDArray[Any]:
        """All of an array that is one object of one Chunk, as small scans are."""
        return self._chunk(paths.shard_path(self.path, (0,) * len(self.shape)))

    def _read_box(self, box: Box) -> NDArray[Any]:
        voxels = np.zeros(box.shape, self.encoding.stored_dtype)

        def read(part: Box) -> None:
            self._read(part, voxels[part.relative_to(box).slices])

        each(read, box.split(self.encoding.shard), at_once=self.store.is_far)
        return voxels

    def _read(self, part: Box, out: NDArray[Any]) -> None:
        """Fill `out`, zeros, with `part`, which lies in one object."""
        shard = self.encoding.shard
        cell = tuple(a // n for a, n in zip(part.start, shard, strict=True))
        origin = tuple(k * n for k, n in zip(cell, shard, strict=True))
        held = Box.from_shape(shard).shift(origin) & Box.from_shape(self.shape)
        path = paths.shard_path(self.path, cell)
        if self.encoding.is_sharded:
            self._fill(path, part.relative_to(held), held.shape, out)
        else:
            out[...] = self._chunk(path)[part.relative_to(held).slices]

    def _chunk(self, path: str) -> NDArray[Any]:
        """An object that is one Chunk."""
        with _missing_as_file(path):
            content = self.store.get(path)
        return self.encoding.decode(content)

    def _fill(self, path: str, part: Box, shape: Sequence[int], out: NDArray[Any]) -> None:
        """The same of a Shard; `part` is counted from its origin, `shape` what the array has there.

        A Chunk that is absent is background.
        """
        chunk = self.encoding.chunk
        pieces = list(part.split(chunk))
        num_chunks = prod(-(-n // m) for n, m in zip(shape, chunk, strict=True))
        are_all = len(pieces) == num_chunks
        with _missing_as_file(path):
            found = self._stored_chunks(path, pieces, are_all=are_all)
        for piece, content in found:
            first = tuple(a // n * n for a, n in zip(piece.start, chunk, strict=True))
            inside = piece.shift(tuple(-a for a in first)).slices
            out[piece.relative_to(part).slices] = self.encoding.decode(content)[inside]

    def _stored_chunks(
        self, path: str, pieces: Sequence[Box], *, are_all: bool
    ) -> list[tuple[Box, bytes]]:
        """Each of `pieces` whose Chunk the Shard holds, with its bytes."""
        index_bytes = self.encoding.index_bytes
        if are_all:
            whole = self.store.get(path)
            found = self.encoding.find_chunks(whole[-index_bytes:], pieces)
            return [(piece, whole[start:stop]) for piece, (start, stop) in found]
        found = self.encoding.find_chunks(self.store.get_tail(path, index_bytes), pieces)
        contents = self.store.get_ranges(path, [span for _, span in found])
        return [(piece, content) for (piece, _), content in zip(found, contents, strict=True)]


@contextmanager
def _missing_as_file(path: str) -> Iterator[None]:
    """Say that an object is not there as zarr-python's stores do."""
    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(path) from error


@lru_cache(maxsize=256)  # scans of one shape are described by the same bytes
def _described(document: bytes) -> tuple[tuple[int, ...], Encoding] | None:
    """Shape and Encoding of an array; None where it is not of this kind.

    Raises StoreError where the document is damaged.
    """
    content = ome_zarr.read_document(document, "zarr.json")
    shape = _lengths(content.get("shape"))
    if not _FEWEST_AXES <= len(shape) <= _MOST_AXES:
        return None
    encoding = _encoding(content, shape)
    return (shape, encoding) if encoding else None


def _lengths(value: Any) -> tuple[int, ...]:
    """What a document says is a shape; none where it is no list of lengths."""
    is_one = isinstance(value, list) and all(isinstance(n, int) and n > 0 for n in value)
    return tuple(value) if is_one else ()


def _encoding(document: Mapping[str, Any], shape: tuple[int, ...]) -> Encoding | None:
    """What `array_document` was made from, if it made `document`."""
    shard, chunk = _cuts(document)
    for compression in COMPRESSIONS:
        encoding = Encoding(str(document.get("data_type")), chunk, shard, compression)
        try:
            ours = ome_zarr.array_document(shape, encoding, _AXES[-len(shape) :])
        except TypeError:  # no dtype of NumPy's
            return None
        ours["attributes"] = document.get("attributes")
        if ours == document and len(shard) == len(chunk) == len(shape):
            return encoding
    return None


def _cuts(document: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a Shard and of a Chunk as a document has them; none where it makes no sense."""
    try:
        shard = _lengths(document["chunk_grid"]["configuration"]["chunk_shape"])
        codec = document["codecs"][0]
        if codec["name"] != "sharding_indexed":
            return shard, shard
        return shard, _lengths(codec["configuration"]["chunk_shape"])
    except (KeyError, IndexError, TypeError):
        return (), ()
