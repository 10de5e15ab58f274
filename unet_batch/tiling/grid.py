"""TileGrid: where a sliding-window network looks, the same for every Block and Replica.

The grid is MONAI's (`monai.inferers.sliding_window_inference`, 1.6): stride
`max(1, int(roi * (1 - overlap)))`, the last tile of an axis moved back to end at the border,
a volume smaller than the roi padded on both sides. Tiles are kept in volume coordinates, so
a tile of a padded axis starts before voxel 0.

    volume   |-----------------------|
    tiles    [------]                      stride = int(roi * (1 - overlap))
                [------]
                   ...
                             [------]      the last ends at the border
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

from unet_batch.pickling import by_fields
from unet_batch.tiling.box import Box, Index


def tile_starts(size: int, roi: int, overlap: float) -> tuple[int, ...]:
    """First voxels of the tiles along one axis of `size` voxels.

    Where `size < roi` there is one tile; it starts at minus the padding before the volume,
    `-(roi - size) // 2` rounded as MONAI does.
    """
    if size <= roi:
        return (-((roi - size) // 2),)
    stride = max(1, int(roi * (1 - overlap)))
    count = ceil((size - roi) / stride) + 1
    return tuple(min(k * stride, size - roi) for k in range(count))


@by_fields
@dataclass(frozen=True, slots=True)
class TileGrid:
    """All tiles of one volume: `shape` and `roi` in voxels, `starts` along each axis."""

    shape: Index
    roi: Index
    starts: tuple[Index, ...]

    @classmethod
    def of(cls, shape: Index, roi: Index, overlap: float) -> TileGrid:
        """The grid of a volume. `overlap` is the share of the roi that neighbours share."""
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must lie in [0, 1), got {overlap}")
        axes = zip(shape, roi, strict=True)
        return cls(shape, roi, tuple(tile_starts(n, r, overlap) for n, r in axes))

    @property
    def counts(self) -> Index:
        """Tiles along each axis."""
        return tuple(len(axis) for axis in self.starts)

    @property
    def num_tiles(self) -> int:
        """Tiles in all."""
        return prod(self.counts)

    def tile(self, index: Index) -> Box:
        """Voxels of the tile with this index; reaches out of the volume where it is padded."""
        start = tuple(axis[k] for axis, k in zip(self.starts, index, strict=True))
        return Box(start, tuple(a + r for a, r in zip(start, self.roi, strict=True)))

    def extent(self, tiles: Box) -> Box:
        """Voxels of the volume that the tiles of an index Box cover."""
        first = self.tile(tiles.start)
        last = self.tile(tuple(k - 1 for k in tiles.stop))
        return Box(first.start, last.stop) & Box.from_shape(self.shape)


def indices(tiles: Box, *, outer: int = 0) -> Iterator[Index]:
    """Indices of an index Box, axis `outer` varying slowest, the others in C order."""
    axes = [range(a, b) for a, b in zip(tiles.start, tiles.stop, strict=True)]
    inner = axes[:outer] + axes[outer + 1 :]
    for slow in axes[outer]:
        for rest in product(*inner):
            yield (*rest[:outer], slow, *rest[outer:])
