"""Voxels to the exact bytes of one Zarr v3 object, without zarr-python's machinery.

A Shard is made in one piece and stored by one put: no partial Shard, no second writer, no
event loop, and the same voxels always give the same bytes. zarr-python reads what is written
here (the tests prove it), so the format is Zarr's own and nothing is private.

    Shard:  [chunk][chunk]...[chunk][index: (offset, bytes) for each chunk, crc32c]
    Chunk:  compressed voxels, crc32c

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import google_crc32c
import numpy as np
from numcodecs import Blosc, Zstd
from numpy.typing import NDArray

from unet_batch.planning.volume_info import Json
from unet_batch.tiling.box import Box

Compression = Literal["blosc", "zstd"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)

BLOSC_LEVEL = 5
ZSTD_LEVEL = 3
ABSENT = 2**64 - 1
"""Offset and length of a Chunk that holds only the fill value."""

_INDEX_ENTRY_BYTES, _CHECKSUM_BYTES = 16, 4

_ENDIAN: Json = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C: Json = {"name": "crc32c"}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the voxels of one array become bytes.

    `chunk` and `shard` are shapes with as many axes as the array; equal where a Shard is a
    single Chunk. `compression` is `blosc` (zstd with bitshuffle: images) or `zstd` (masks).
    """

    dtype: str
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    compression: Compression

    def encode(self, voxels: NDArray[Any]) -> bytes:
        """The object of one Shard; `voxels` is clipped where the array ends within it."""
        voxels = voxels.astype(self.stored_dtype, copy=False)
        compressor = self._compressor()
        if not self.is_sharded:
            return _encode_chunk(_padded(voxels, self.chunk), compressor)
        return _encode_shard(voxels, self.chunk, self.shard, compressor)

    @property
    def is_sharded(self) -> bool:
        """Whether an object holds several Chunks."""
        return self.chunk != self.shard

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the voxels as they are stored."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def index_bytes(self) -> int:
        """Bytes of the index that a Shard ends with."""
        return _INDEX_ENTRY_BYTES * prod(self._grid) + _CHECKSUM_BYTES

    def find_chunks(self, tail: bytes, pieces: Sequence[Box]) -> list[tuple[Box, tuple[int, int]]]:
        """Each of `pieces` whose Chunk is stored, with the first byte of it and that after it.

        `tail` are the last `index_bytes` of the Shard, from whose origin pieces are counted. Raises
        ValueError where it is damaged.
        """
        index = np.frombuffer(_checked(tail), "<u8")
        if len(tail) != self.index_bytes:
            raise ValueError(f"its index has {len(tail)} bytes, expected {self.index_bytes}")
        index = index.reshape(*self._grid, 2)
        found = []
        for piece in pieces:
            cell = tuple(a // n for a, n in zip(piece.start, self.chunk, strict=True))
            offset, length = map(int, index[cell])
            if offset != ABSENT:
                found.append((piece, (offset, offset + length)))
        return found

    def decode(self, content: bytes) -> NDArray[Any]:
        """The voxels of one Chunk. Raises ValueError where it is damaged."""
        voxels = np.empty(self.chunk, self.stored_dtype)
        self._compressor().decode(_checked(content), out=voxels)
        return voxels

    def codecs(self) -> list[Json]:
        """The `codecs` of the array's metadata document."""
        chunk_codecs = [_ENDIAN, self._compressor_document(), _CRC32C]
        if not self.is_sharded:
            return chunk_codecs
        configuration: Json = {
            "chunk_shape": list(self.chunk),
            "codecs": chunk_codecs,
            "index_codecs": [_ENDIAN, _CRC32C],
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": configuration}]

    @property
    def _grid(self) -> tuple[int, ...]:
        """Chunks of a Shard along each axis."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    def _compressor(self) -> Blosc | Zstd:
        if self.compression == "zstd":
            return Zstd(level=ZSTD_LEVEL)
        return Blosc("zstd", BLOSC_LEVEL, Blosc.BITSHUFFLE, typesize=np.dtype(self.dtype).itemsize)

    def _compressor_document(self) -> Json:
        if self.compression == "zstd":
            return {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
        configuration: Json = {
            "typesize": np.dtype(self.dtype).itemsize,
            "cname": "zstd",
            "clevel": BLOSC_LEVEL,
            "shuffle": "bitshuffle",
            "blocksize": 0,
        }
        return {"name": "blosc", "configuration": configuration}


def _encode_shard(
    voxels: NDArray[Any], chunk: tuple[int, ...], shard: tuple[int, ...], compressor: Blosc | Zstd
) -> bytes:
    grid = tuple(s // c for s, c in zip(shard, chunk, strict=True))
    index = np.full((*grid, 2), ABSENT, dtype="<u8")
    parts: list[bytes] = []
    offset = 0
    for box in Box.from_shape(voxels.shape).split(chunk):
        piece = voxels[box.slices]
        if piece.any():
            parts.append(_encode_chunk(_padded(piece, chunk), compressor))
            cell = tuple(a // c for a, c in zip(box.start, chunk, strict=True))
            index[cell] = offset, len(parts[-1])
            offset += len(parts[-1])
    return b"".join([*parts, _with_checksum(index.tobytes())])


def _encode_chunk(voxels: NDArray[Any], compressor: Blosc | Zstd) -> bytes:
    return _with_checksum(bytes(compressor.encode(np.ascontiguousarray(voxels))))


def _padded(voxels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """`voxels` at the origin of a zero array of `shape`; themselves where they fill it."""
    if voxels.shape == shape:
        return voxels
    padded = np.zeros(shape, dtype=voxels.dtype)
    padded[Box.from_shape(voxels.shape).slices] = voxels
    return padded


def _with_checksum(content: bytes) -> bytes:
    return content + _checksum(content)


def _checked(content: bytes) -> bytes:
    """What `_with_checksum` was given. Raises ValueError where it is not what it was."""
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if _checksum(body) != checksum:
        raise ValueError("its checksum (crc32c) is not that of its bytes")
    return body


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(_CHECKSUM_BYTES, "little")
