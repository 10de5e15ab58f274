"""Voxels to the exact bytes of one Zarr v3 object, without zarr-python's machinery.

A Shard is made in one piece and stored by one put: no partial Shard, no second writer, no
event loop, and the same voxels always give the same bytes. zarr-python reads what is written
here (the tests prove it), so the format is Zarr's own and nothing is private.

    Shard:  [chunk][chunk]...[chunk][index: (offset, bytes) for each chunk, crc32c]
    Chunk:  compressed voxels, crc32c

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

from dataclasses import dataclass
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
        voxels = voxels.astype(np.dtype(self.dtype).newbyteorder("<"), copy=False)
        compressor = self._compressor()
        if self.chunk == self.shard:
            return _encode_chunk(_padded(voxels, self.chunk), compressor)
        return _encode_shard(voxels, self.chunk, self.shard, compressor)

    def decode(self, content: bytes) -> NDArray[Any]:
        """The voxels of an object that is one Chunk. Raises ValueError where it is damaged."""
        body, checksum = memoryview(content)[:-4], content[-4:]
        if google_crc32c.value(bytes(body)).to_bytes(4, "little") != checksum:
            raise ValueError("its checksum (crc32c) is not that of its bytes")
        voxels = np.empty(self.chunk, np.dtype(self.dtype).newbyteorder("<"))
        self._compressor().decode(body, out=voxels)
        return voxels

    def codecs(self) -> list[Json]:
        """The `codecs` of the array's metadata document."""
        chunk_codecs = [_ENDIAN, self._compressor_document(), _CRC32C]
        if self.chunk == self.shard:
            return chunk_codecs
        configuration: Json = {
            "chunk_shape": list(self.chunk),
            "codecs": chunk_codecs,
            "index_codecs": [_ENDIAN, _CRC32C],
            "index_location": "end",
        }
        return [{"name": "sharding_indexed", "configuration": configuration}]

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
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")
