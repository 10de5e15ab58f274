"""Layout: how an array is cut into Chunks (read unit) and Shards (write unit). Pure arithmetic.

A Chunk is about 64³ voxels, so that a tile reads little more than itself; a Shard up to about
256³, so that a scan is few objects. A thin volume gets flat, wide Chunks of the same size; a
small one is a single Chunk, cheap to write and to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from unet_batch.pickling import by_fields

Shape3 = tuple[int, int, int]

CHUNK_EDGE = 64
SHARD_EDGE = 256
MAX_SINGLE_CHUNK_VOXELS = 128**3
"""A volume up to this size is one Chunk: it is read whole by one or two tiles anyway."""


@by_fields
@dataclass(frozen=True, slots=True)
class Layout:
    """Voxels (z, y, x) of a Chunk and of a Shard; a Shard is a whole number of Chunks."""

    chunk_zyx: Shape3
    shard_zyx: Shape3

    @property
    def is_sharded(self) -> bool:
        """Whether a Shard holds more than one Chunk."""
        return self.chunk_zyx != self.shard_zyx


def layout_for(shape_zyx: Shape3) -> Layout:
    """The Layout of a volume of `shape_zyx` voxels.

    >>> layout_for((40, 40, 40))
    Layout(chunk_zyx=(40, 40, 40), shard_zyx=(40, 40, 40))
    >>> layout_for((300, 512, 512))
    Layout(chunk_zyx=(60, 64, 64), shard_zyx=(180, 256, 256))
    >>> layout_for((9, 1024, 1024))
    Layout(chunk_zyx=(9, 128, 128), shard_zyx=(9, 1024, 1024))
    """
    if prod(shape_zyx) <= MAX_SINGLE_CHUNK_VOXELS:
        return Layout(shape_zyx, shape_zyx)
    chunk = _divide(shape_zyx, _widen(shape_zyx, CHUNK_EDGE))
    num_chunks = _ceil_divide(shape_zyx, chunk)
    num_shards = _ceil_divide(shape_zyx, _widen(shape_zyx, SHARD_EDGE))
    chunks_per_shard = _ceil_divide(num_chunks, num_shards)
    z, y, x = (c * n for c, n in zip(chunk, chunks_per_shard, strict=True))
    return Layout(chunk, (z, y, x))


def _widen(shape: Shape3, edge: int) -> Shape3:
    """Up to `edge` along each axis; what thin axes leave of edge³ voxels goes to the others."""
    edges = [min(n, edge) for n in shape]
    while True:
        growing = [i for i, n in enumerate(shape) if edges[i] < n and 2 * prod(edges) <= edge**3]
        if not growing:
            return edges[0], edges[1], edges[2]
        smallest = min(growing, key=lambda i: edges[i])
        edges[smallest] = min(shape[smallest], 2 * edges[smallest])


def _divide(shape: Shape3, largest: Shape3) -> Shape3:
    """Cells of at most `largest` that divide `shape` as evenly as whole voxels can."""
    return _ceil_divide(shape, _ceil_divide(shape, largest))


def _ceil_divide(numbers: Shape3, divisors: Shape3) -> Shape3:
    z, y, x = (-(-a // b) for a, b in zip(numbers, divisors, strict=True))
    return z, y, x
