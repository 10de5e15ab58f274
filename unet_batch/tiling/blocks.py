"""BlockLayout: how one volume's tiles are shared out, and which voxels each share finishes.

The tile grid is cut into Sweeps, boxes of tile indices that partition it, so every tile is
predicted once. A Sweep is walked along one axis by a single Replica, Block after Block; a
rolling slab of weighted logit sums follows it.

    sweep axis ->
    |-- Block 0 --|-- Block 1 --|-- Block 2 --|     one Sweep: the slab is inherited
          +-------------+                           extents of neighbouring Blocks overlap;
                  +-------------+                   a Block finishes [its first tile's start,
                                                    the next Block's first tile's start)

Where the extents of two or more Sweeps overlap, no Replica has the whole sum: those voxels
are a Seam. The volume is therefore cut along global breakpoints into cells; each cell knows
the Sweeps that contribute to it. One contributor: it finishes the cell on its device.
Several: each hands out its sums, and the Stitcher adds them in Sweep order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.grid import TileGrid

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cell:
    """A region of voxels and the numbers of the Sweeps that contribute to it, ascending."""

    box: Box
    sweeps: tuple[int, ...]

    @property
    def is_seam(self) -> bool:
        """Whether sums of several Sweeps must be added before it can be finished."""
        return len(self.sweeps) > 1


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive tile layers of one Sweep: the unit of dispatch to a Replica.

    `number` counts along the Sweep from 0; `tiles` is a Box of tile indices.
    """

    sweep: int
    number: int
    tiles: Box


@dataclass(frozen=True)
class BlockLayout:
    """The cuts of one volume's tile grid.

    Attributes
    ----------
    grid: the volume's tiles.
    axis: the axis along which Sweeps are walked.
    groups: for every axis the first tile index of each group; Sweeps are their products.
    layers: tile layers a Block holds along `axis`, at most.
    """

    grid: TileGrid
    axis: int
    groups: tuple[Index, ...]
    layers: int

    @classmethod
    def whole(cls, grid: TileGrid, *, axis: int = 0) -> BlockLayout:
        """One Sweep of one Block."""
        return cls(grid, axis, tuple((0,) for _ in grid.shape), max(grid.counts))

    @cached_property
    def sweeps(self) -> tuple[Box, ...]:
        """The Sweeps as Boxes of tile indices, in C order of their groups."""
        axes = [
            list(pairwise((*starts, count)))
            for starts, count in zip(self.groups, self.grid.counts, strict=True)
        ]
        return tuple(_box(intervals) for intervals in product(*axes))

    @cached_property
    def extents(self) -> tuple[Box, ...]:
        """The voxels each Sweep's tiles cover; neighbours overlap."""
        return tuple(self.grid.extent(tiles) for tiles in self.sweeps)

    @property
    def num_blocks(self) -> int:
        """Blocks of all Sweeps."""
        return sum(len(self.blocks(k)) for k in range(len(self.sweeps)))

    def blocks(self, sweep: int) -> tuple[Block, ...]:
        """The Blocks of one Sweep in the order they must run."""
        tiles, axis = self.sweeps[sweep], self.axis
        firsts = range(tiles.start[axis], tiles.stop[axis], self.layers)
        return tuple(
            Block(sweep, number, _replace(tiles, axis, k, min(k + self.layers, tiles.stop[axis])))
            for number, k in enumerate(firsts)
        )

    def finished_region(self, block: Block) -> Box:
        """Voxels that no later tile of the Sweep reaches once this Block has landed."""
        extent, axis, starts = self.extents[block.sweep], self.axis, self.grid.starts[self.axis]
        first, stop = block.tiles.start[axis], block.tiles.stop[axis]
        is_last = stop == self.sweeps[block.sweep].stop[axis]
        lower = extent.start[axis] if block.number == 0 else starts[first]
        return _replace(extent, axis, lower, extent.stop[axis] if is_last else starts[stop])

    def cells(self, block: Block) -> tuple[Cell, ...]:
        """The cells this Block finishes or contributes sums to, in C order."""
        region = self.finished_region(block)
        axes = [
            self._intervals(axis, a, b)
            for axis, (a, b) in enumerate(zip(region.start, region.stop, strict=True))
        ]
        return tuple(self._cell(intervals) for intervals in product(*axes))

    def rebuild_tiles(self, block: Block) -> Box:
        """Tiles of earlier Blocks that reach into this one: what a lost slab must predict again.

        Empty (falsy) for the first Block of a Sweep.
        """
        axis, starts = self.axis, self.grid.starts[self.axis]
        first, begin = block.tiles.start[axis], self.sweeps[block.sweep].start[axis]
        reach = starts[first] - self.grid.roi[axis]
        while begin < first and starts[begin] <= reach:
            begin += 1
        return _replace(block.tiles, axis, begin, first)

    def input_box(self, block: Block, *, rebuild: bool = False) -> Box:
        """Voxels of the volume the Block reads, with the tiles of a lost slab if asked."""
        tiles = block.tiles
        if rebuild:
            begin = self.rebuild_tiles(block).start[self.axis]
            tiles = _replace(tiles, self.axis, begin, tiles.stop[self.axis])
        return self.grid.extent(tiles)

    @cached_property
    def _breakpoints(self) -> tuple[Index, ...]:
        """Along each axis: where the set of contributors, or the Block, may change."""
        points: list[set[int]] = [{0, size} for size in self.grid.shape]
        for number, extent in enumerate(self.extents):
            for axis, seen in enumerate(points):
                seen.update((extent.start[axis], extent.stop[axis]))
            for block in self.blocks(number):
                points[self.axis].add(self.finished_region(block).start[self.axis])
        return tuple(tuple(sorted(seen)) for seen in points)

    def _intervals(self, axis: int, start: int, stop: int) -> Iterator[Interval]:
        points = self._breakpoints[axis]
        return pairwise(points[bisect_left(points, start) : bisect_left(points, stop) + 1])

    def _cell(self, intervals: tuple[Interval, ...]) -> Cell:
        box = _box(intervals)
        return Cell(box, tuple(k for k, extent in enumerate(self.extents) if box in extent))


def _box(intervals: tuple[Interval, ...]) -> Box:
    return Box(tuple(a for a, _ in intervals), tuple(b for _, b in intervals))


def _replace(box: Box, axis: int, start: int, stop: int) -> Box:
    """`box` with another interval along `axis`."""
    return Box(
        (*box.start[:axis], start, *box.start[axis + 1 :]),
        (*box.stop[:axis], stop, *box.stop[axis + 1 :]),
    )
