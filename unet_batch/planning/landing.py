"""Landing: how much of one Volume is there, and which of its Blocks must run again when not.

    Block lands ─┬─> cell of labels ──────────────> write regions that are whole with it
                 └─> Seam: one more contribution ─> to be stitched once it has all of them

Results lie in the memory of machines until they are stored, and a machine may go. Then the
Blocks that made what is missing are named, and run again; what was there already is left as
it is, so that landing twice does no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from unet_batch.planning.messages import Region
from unet_batch.planning.plan import BlockKey, VolumePlan
from unet_batch.tiling.blocks import Cell
from unet_batch.tiling.box import Box


class Landed(NamedTuple):
    """What became possible: Seams to stitch, regions to write."""

    seams: list[Cell]
    regions: list[Region]


class Landing:
    """What of a Volume has landed: voxels by write region, contributions by Seam."""

    def __init__(self, plan: VolumePlan) -> None:
        self._plan = plan
        self._whole = Box.from_shape(plan.info.shape_zyx)
        self._missing = {region: region.num_voxels for region in plan.write_regions}
        self._unwritten = set(self._missing)
        self._cells: dict[Box, dict[Box, None]] = {}  # of each region, in the order they landed
        self._contributions: dict[Box, set[BlockKey]] = {}
        self._makers: dict[Box, set[BlockKey]] = {}

    def land(self, key: BlockKey) -> Landed:
        """Note that a Block returned."""
        landed = Landed([], [])
        for cell in self._plan.layout.cells(self._plan.block(key)):
            self._makers.setdefault(cell.box, set()).add(key)
            if not cell.is_seam:
                landed.regions.extend(self.land_labels(cell.box))
            elif self._is_last(key, cell):
                landed.seams.append(cell)
        return landed

    def land_labels(self, box: Box) -> list[Region]:
        """Note the labels of a cell; the write regions that are whole with them."""
        ready = []
        for part in box.split(self._plan.info.shard_zyx):
            region = self._region_of(part)
            cells = self._cells.setdefault(region, {})
            if region not in self._missing or box in cells:
                continue
            cells[box] = None
            self._missing[region] -= part.num_voxels
            if self._missing[region] == 0:
                del self._missing[region], self._cells[region]
                ready.append(Region(self._plan.info.id, region, tuple(cells)))
        return ready

    def is_whole_with(self, regions: Collection[Box]) -> bool:
        """Whether the Volume is whole in its store once `regions` are written."""
        return self._unwritten.issubset(regions)

    def note_written(self, region: Box) -> bool:
        """Whether the Volume is whole in its store with this region; said once."""
        if region not in self._unwritten:
            return False
        self._unwritten.remove(region)
        return not self._unwritten

    def lose_region(self, region: Region) -> set[BlockKey]:
        """The Blocks that must run again, since cells of a whole region are gone."""
        self._missing[region.box] = region.box.num_voxels
        return self._lose(region.cells)

    def lose_seam(self, cell: Cell) -> set[BlockKey]:
        """The Blocks that must run again, since sums of a Seam are gone."""
        return self._lose([cell.box])

    def _lose(self, cells: Iterable[Box]) -> set[BlockKey]:
        again: set[BlockKey] = set()
        for box in cells:
            again |= self._makers.pop(box, set())  # empty: they run again already
            self._contributions.pop(box, None)
        return again

    def _is_last(self, key: BlockKey, cell: Cell) -> bool:
        contributions = self._contributions.setdefault(cell.box, set())
        if key in contributions:
            return False
        contributions.add(key)
        return len(contributions) == len(cell.sweeps)

    def _region_of(self, part: Box) -> Box:
        """The write region that holds `part`."""
        shard = self._plan.info.shard_zyx
        start = tuple(a // n * n for a, n in zip(part.start, shard, strict=True))
        stop = tuple(min(a + n, m) for a, n, m in zip(start, shard, self._whole.stop, strict=True))
        return Box(start, stop)
