"""Content: what is computed of all voxels of a scan, in one pass: their digest and statistics.

The digest names the input of every result, so it must never change for the same scan: it is
BLAKE2b (20 bytes) over a JSON head (type, shape, affine, channels) and then the voxels,
little-endian, in C order of (c, z, y, x), however they are stored. A scan that is copied and
the same one taken in place have the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.formats.scan import Scan
from unet_batch.planning.volume_info import ChannelStatistics, Json
from unet_batch.storage.ome_zarr import to_bytes
from unet_batch.storage.statistics import ChannelTally, slabs


@dataclass(frozen=True, slots=True)
class Content:
    """Digest (hex) of a scan, and statistics of each channel."""

    content_hash: str
    statistics: tuple[ChannelStatistics, ...]


def content_of(scan: Scan, channels: Iterable[Iterable[NDArray[Any]]] | None = None) -> Content:
    """The Content of `scan`.

    `channels` gives, for each channel, its voxels (z, y, x) in pieces along z; without it they
    are those of the scan. Bool counts as uint8. Pieces are walked through once, while they are
    in the processor's cache.
    """
    shape = scan.voxels_czyx.shape
    dtype = stored_dtype(scan.voxels_czyx.dtype)
    digest = hashlib.blake2b(to_bytes(_head(scan, dtype)), digest_size=20)
    statistics = []
    for pieces in [[one] for one in scan.voxels_czyx] if channels is None else channels:
        tally = ChannelTally(dtype, prod(shape[1:]))
        for piece_zyx in pieces:
            for slab in slabs(np.asarray(piece_zyx, dtype=dtype)):
                digest.update(slab.data)
                tally.add(slab)
        statistics.append(tally.finish())
    return Content(digest.hexdigest(), tuple(statistics))


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type under which an Archive knows voxels: little-endian, bool as uint8."""
    return (np.dtype(np.uint8) if dtype.kind == "b" else dtype).newbyteorder("<")


def _head(scan: Scan, dtype: np.dtype[Any]) -> dict[str, Json]:
    return {
        "dtype": dtype.name,
        "shape": list(scan.voxels_czyx.shape),
        "affine": [float(n) for n in scan.affine.ravel()],
        "channels": list(scan.channels),
    }
