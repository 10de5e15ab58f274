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

A cut may be recomputed instead: both sides then end at the cut voxel, the side behind it
predicts the tiles that reach over it once more, and there is no Seam.

    travel     before [=============|~~~~~~]           ~ sums of both sides are added
               behind               [~~~~~~|=======]
    recompute  before [=============|                  each side has all that it needs
               behind        (again).[=============]

With a GridMap the tiles lie on its model grid, and what Blocks finish on the scan's own: the
scan voxels whose interpolation needs no later model voxel. Sums cannot travel then, and the
side behind a cut keeps one more plane, since a scan voxel at the cut lies between the two.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise, product
from typing import NamedTuple

from unet_batch.pickling import by_fields
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.grid import TileGrid
from unet_batch.tiling.grid_map import GridMap

Interval = tuple[int, int]


class _Span(NamedTuple):
    """A group along one axis: its tiles, the voxels it has sums for, and those it finishes."""

    tiles: Interval
    voxels: Interval
    own: Interval


@by_fields
@dataclass(frozen=True, slots=True)
class Cell:
    """A region of voxels and the numbers of the Sweeps that contribute to it, ascending."""

    box: Box
    sweeps: tuple[int, ...]

    @property
    def is_seam(self) -> bool:
        """Whether sums of several Sweeps must be added before it can be finished."""
        return len(self.sweeps) > 1


@by_fields
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
    layers: tile layers a Block holds along `axis`, at most; the first Block of a Sweep
        holds those that are recomputed besides.
    recomputed: for every axis the groups, by first tile index, that are cut off from the one
        before by tiles predicted again; at all other cuts sums travel.
    grid_map: between the tiles' grid and the scan's, where they differ; needs every cut to
        be recomputed.
    """

    grid: TileGrid
    axis: int
    groups: tuple[Index, ...]
    layers: int
    recomputed: tuple[Index, ...] = ()
    grid_map: GridMap | None = None

    def __reduce__(self) -> tuple[Callable[..., BlockLayout], tuple[object, ...]]:
        # What was worked out does not travel, and is worked out once in each process: a layout
        # goes with every call to a Replica.
        fields = (self.grid, self.axis, self.groups, self.layers, self.recomputed, self.grid_map)
        return _known_layout, fields

    @classmethod
    def whole(cls, grid: TileGrid, *, axis: int = 0) -> BlockLayout:
        """One Sweep of one Block."""
        return cls(grid, axis, tuple((0,) for _ in grid.shape), max(grid.counts))

    @cached_property
    def sweeps(self) -> tuple[Box, ...]:
        """The Sweeps as Boxes of tile indices, in C order of their groups.

        They partition the grid, but for the tiles that are recomputed.
        """
        return tuple(_box([span.tiles for span in spans]) for spans in product(*self._spans))

    @cached_property
    def extents(self) -> tuple[Box, ...]:
        """The voxels each Sweep has sums for; neighbours overlap where sums travel."""
        return tuple(_box([span.voxels for span in spans]) for spans in product(*self._spans))

    @cached_property
    def _own(self) -> tuple[Box, ...]:
        """Of these extents what each Sweep finishes or contributes to."""
        return tuple(_box([span.own for span in spans]) for spans in product(*self._spans))

    @cached_property
    def _blocks(self) -> dict[int, tuple[Block, ...]]:
        """Those that were asked for, by Sweep."""
        return {}

    @cached_property
    def _cells(self) -> dict[Block, tuple[Cell, ...]]:
        """Those that were asked for, by Block."""
        return {}

    @property
    def has_seams(self) -> bool:
        """Whether sums travel at any cut."""
        again = self.recomputed or ((),) * len(self.groups)
        return any(
            set(starts[1:]) - set(cuts) for starts, cuts in zip(self.groups, again, strict=True)
        )

    @cached_property
    def num_tiles(self) -> int:
        """Tiles that are predicted, those that are recomputed included."""
        return sum(tiles.num_voxels for tiles in self.sweeps)

    @cached_property
    def num_blocks(self) -> int:
        """Blocks of all Sweeps."""
        return sum(len(self.blocks(k)) for k in range(len(self.sweeps)))

    def blocks(self, sweep: int) -> tuple[Block, ...]:
        """The Blocks of one Sweep in the order they must run."""
        if sweep not in self._blocks:
            self._blocks[sweep] = self._cut(sweep)
        return self._blocks[sweep]

    def _cut(self, sweep: int) -> tuple[Block, ...]:
        tiles, axis = self.sweeps[sweep], self.axis
        stop, own = tiles.stop[axis], self._own[sweep]
        # Layers that begin before what is finished are there for what follows: they end no Block.
        first_own = bisect_left(self.grid.starts[axis], own.start[axis], tiles.start[axis], stop)
        firsts = [tiles.start[axis], *range(first_own + self.layers, stop, self.layers)]
        return tuple(
            Block(sweep, number, _replace(tiles, axis, first, end))
            for number, (first, end) in enumerate(pairwise([*firsts, stop]))
        )

    def finished_region(self, block: Block) -> Box:
        """Voxels that no later tile of the Sweep reaches once this Block has landed."""
        own, axis, starts = self._own[block.sweep], self.axis, self.grid.starts[self.axis]
        first, stop = block.tiles.start[axis], block.tiles.stop[axis]
        is_last = stop == self.sweeps[block.sweep].stop[axis]
        lower = own.start[axis] if block.number == 0 else starts[first]
        return _replace(own, axis, lower, own.stop[axis] if is_last else starts[stop])

    def scan_region(self, block: Block) -> Box:
        """The same on the scan's own grid: what the Block hands out. Empty, if that is coarse."""
        region = self.finished_region(block)
        return self.grid_map.completed(region) if self.grid_map else region

    def cells(self, block: Block) -> tuple[Cell, ...]:
        """The cells this Block finishes or contributes sums to, in C order, on the scan's grid."""
        if block not in self._cells:
            self._cells[block] = self._find_cells(block)
        return self._cells[block]

    def _find_cells(self, block: Block) -> tuple[Cell, ...]:
        region = self.scan_region(block)
        if self.grid_map:
            return (Cell(region, (block.sweep,)),) if region else ()
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
        reach = starts[first] - self.planes_kept - self.grid.roi[axis]
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

    def read_box(self, block: Block, *, rebuild: bool = False) -> Box:
        """The same on the scan's own grid: the voxels to fetch."""
        box = self.input_box(block, rebuild=rebuild)
        return self.grid_map.scan_box(box) if self.grid_map else box

    @property
    def planes_kept(self) -> int:
        """Finished planes along `axis` that what follows is interpolated from as well."""
        return self._margin(self.axis)

    def _margin(self, axis: int) -> int:
        return int(self.grid_map is not None and self.grid_map.axes[axis].is_interpolated)

    @cached_property
    def _spans(self) -> tuple[tuple[_Span, ...], ...]:
        """Along each axis: the tiles and voxels of each group."""
        again = self.recomputed or ((),) * len(self.groups)
        return tuple(
            tuple(self._axis_spans(axis, groups, cuts))
            for axis, (groups, cuts) in enumerate(zip(self.groups, again, strict=True))
        )

    def _axis_spans(self, axis: int, groups: Index, cuts: Index) -> Iterator[_Span]:
        starts, roi, size = self.grid.starts[axis], self.grid.roi[axis], self.grid.shape[axis]
        for first, stop in pairwise((*groups, len(starts))):
            # Nothing crosses a recomputed cut: the last one before and the next one behind.
            own = max((starts[cut] for cut in cuts if cut <= first), default=0)
            high = min((starts[cut] for cut in cuts if cut > first), default=size)
            low = max(0, own - self._margin(axis))
            begin = bisect_right(starts, low - roi) if first in cuts else first
            voxels = max(low, starts[begin]), min(high, starts[stop - 1] + roi)
            yield _Span((begin, stop), voxels, (max(own, voxels[0]), voxels[1]))

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
        return Cell(box, tuple(k for k, extent in enumerate(self.extents) if extent.holds(box)))


@lru_cache(maxsize=256)
def _known_layout(
    grid: TileGrid,
    axis: int,
    groups: tuple[Index, ...],
    layers: int,
    recomputed: tuple[Index, ...],
    grid_map: GridMap | None,
) -> BlockLayout:
    return BlockLayout(grid, axis, groups, layers, recomputed, grid_map)


def _box(intervals: Sequence[Interval]) -> Box:
    return Box(tuple(a for a, _ in intervals), tuple(b for _, b in intervals))


def _replace(box: Box, axis: int, start: int, stop: int) -> Box:
    """`box` with another interval along `axis`."""
    return Box(
        (*box.start[:axis], start, *box.start[axis + 1 :]),
        (*box.stop[:axis], stop, *box.stop[axis + 1 :]),
    )
