"""Blosc frames of others' Zarr chunks, their length checked before they are decompressed.

A frame begins with its own length (c-blosc, README_CHUNK_FORMAT.rst). numcodecs believes it: of a
chunk that was cut short c-blosc reads on past its end, which kills the process or, worse, does not.
Importing this module registers the codecs below, for Zarr v2 and v3.
"""

from __future__ import annotations

import struct
from typing import Any

import zarr
from numcodecs import Blosc
from numcodecs.compat import ensure_contiguous_ndarray
from numcodecs.registry import register_codec as register_v2
from typing_extensions import override
from zarr.codecs import BloscCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.registry import register_codec as register_v3

_HEADER = struct.Struct("<4B3I")
"""Versions, flags, and a voxel's bytes; lengths of the voxels, of a block, and of the frame."""


def check_frame(content: Any) -> None:
    """Raises ValueError where `content` is not as many bytes as it says of itself."""
    frame = memoryview(ensure_contiguous_ndarray(content)).cast("B")
    if len(frame) < _HEADER.size:
        raise ValueError(f"a Blosc frame of {len(frame)} bytes; its header has {_HEADER.size}")
    length = _HEADER.unpack_from(frame)[-1]
    if length != len(frame):
        raise ValueError(f"a Blosc frame of {len(frame)} bytes says that it has {length}")


class CheckedBlosc(Blosc):  # type: ignore[misc]
    """For Zarr v2."""

    @override
    def decode(self, buf: Any, out: Any = None) -> Any:
        check_frame(buf)
        return super().decode(buf, out)


class CheckedBloscCodec(BloscCodec):
    """For Zarr v3, whose `_decode_single` calls this too."""

    @override
    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        check_frame(chunk_bytes.as_numpy_array())
        return super()._decode_sync(chunk_bytes, chunk_spec)


register_v2(CheckedBlosc)
register_v3("blosc", CheckedBloscCodec)
zarr.config.set({"codecs.blosc": f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__name__}"})
