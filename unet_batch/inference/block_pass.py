"""BlockPass: one Block under way on the device, from the order for it to its result.

    tiles to predict ──> read_tile ─(network)─> add ──> finish_layer ──> cells

It holds the Block's normalised voxels, the Sweep's slab, and the cells that are being filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.errors import DeviceMemoryError
from unet_batch.inference.head import NOT_FINITE, Head
from unet_batch.inference.regridding import finish_on_scan_grid
from unet_batch.inference.skipping import Piece, SkipRule
from unet_batch.inference.slab import Slab
from unet_batch.inference.transfer import Fetch, Transfer
from unet_batch.inference.voxels import copy_tile
from unet_batch.pickling import by_fields
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import Block, BlockLayout, Cell
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.grid import indices
from unet_batch.tiling.grid_map import GridMap

Array = NDArray[np.generic]


@by_fields
@dataclass(frozen=True, slots=True)
class BlockOrder:
    """One Block to predict.

    `rebuild` asks for the tiles of earlier Blocks too, whose sums a lost Replica held.
    """

    volume_id: str
    layout: BlockLayout
    block: Block
    statistics: tuple[ChannelStatistics, ...]
    rebuild: bool = False


@dataclass(slots=True)
class BlockResult:
    """What became of a BlockOrder: an array a cell of `layout.cells(block)`, or a failure.

    A cell of one Sweep is the Head's planes, unsigned (p, z, y, x); a Seam is its sums,
    float32 (c, z, y, x).
    """

    cells: list[Array] = field(default_factory=list)
    failure: str = ""
    num_tiles: int = 0
    num_skipped: int = 0
    is_short: bool = False
    """Whether it failed for want of memory: a smaller Block may fit."""


class BlockPass:
    """One Block under way: its normalised voxels, its slab, its cells being filled."""

    def __init__(
        self,
        order: BlockOrder,
        box: Box,
        voxels_czyx: torch.Tensor,
        slab: Slab,
        head: Head,
        result: BlockResult,
        transfer: Transfer,
    ) -> None:
        self._order, self._box, self._voxels, self._slab = order, box, voxels_czyx, slab
        self._head, self._result, self._transfer = head, result, transfer
        self._downloads: list[Fetch] = []
        self._broken: Fetch | None = None
        self._cells = order.layout.cells(order.block)
        self._outputs = [self._room(cell) for cell in self._cells]
        self._skip: SkipRule | None = None
        self._pieces: Sequence[Piece] = ()

    def skip_by(self, rule: SkipRule, pieces: Sequence[Piece]) -> None:
        """Leave out the tiles that `rule` calls background by the raw voxels in `pieces`."""
        self._skip, self._pieces = rule, pieces

    def is_background(self, index: Index) -> bool:
        """Whether a tile is to be skipped."""
        if self._skip is None:
            return False
        layout = self._order.layout
        box = layout.grid.tile(index) & self._box
        return self._skip.holds(
            self._pieces, layout.grid_map.scan_box(box) if layout.grid_map else box
        )

    def skip(self) -> None:
        """Count a tile that adds nothing."""
        self._result.num_skipped += 1

    def indices(self) -> Iterator[Index]:
        """Indices of the tiles to predict, layer after layer."""
        layout, block = self._order.layout, self._order.block
        if self._order.rebuild:
            yield from indices(layout.rebuild_tiles(block), outer=layout.axis)
        yield from indices(block.tiles, outer=layout.axis)

    def read_tile(self, index: Index, room_czyx: torch.Tensor) -> None:
        """Copy a tile's voxels to `room_czyx`, zero where it reaches out of the volume."""
        copy_tile(self._voxels, self._box, self._order.layout.grid.tile(index), room_czyx)

    def add(self, index: Index, logits_czyx: torch.Tensor) -> None:
        """Add a tile's logits to the slab."""
        self._slab.add(logits_czyx, self._order.layout.grid.tile(index))
        self._result.num_tiles += 1

    def finish_layer(self, index: Index) -> None:
        """After the last tile of a layer: read out what no later tile reaches."""
        layout, axis = self._order.layout, self._order.layout.axis
        tiles = layout.sweeps[self._order.block.sweep]
        corner = (*(stop - 1 for stop in tiles.stop[:axis]), index[axis])
        if self._result.failure or index != (*corner, *(k - 1 for k in tiles.stop[axis + 1 :])):
            return
        following = index[axis] + 1
        is_last = following == tiles.stop[axis]
        extent, starts = self._slab.extent, layout.grid.starts[axis]
        position = extent.stop[axis] if is_last else starts[following]
        if layout.grid_map:
            self._read_out_regridded(self._slab.layer(position), layout.grid_map)
            self._slab.clear_to(position)
        elif position > layout.finished_region(self._order.block).start[axis]:
            self._read_out(self._slab.layer(position))
        else:
            self._slab.clear_to(position)  # rebuilt only for what reaches into the Block
        self._slab.cursor = position
        if following == self._order.block.tiles.stop[axis]:
            self._close()

    def fail(self, error: Exception) -> None:
        """Give the Block up: nothing of it is handed out."""
        self._result.failure = str(error)
        self._result.is_short = isinstance(error, DeviceMemoryError)

    def hand_out(self) -> None:
        """Wait for the cells and put them into the result: label values and sums."""
        if not self._result.failure and self._broken is not None and self._broken():
            self._result.failure = NOT_FINITE
        if self._result.failure:
            return
        for cell, fetch in zip(self._cells, self._downloads, strict=True):
            array = fetch()
            self._result.cells.append(array if cell.is_seam else self._head.label_values(array))

    def _read_out(self, layer: Box) -> None:
        for cell, output in zip(self._cells, self._outputs, strict=True):
            part = cell.box & layer
            if not part:
                continue
            inside = part.relative_to(cell.box).slices
            read_out = self._slab.take if cell.is_seam else self._slab.finish
            read_out(part, output[:, *inside])

    def _read_out_regridded(self, layer: Box, grid_map: GridMap) -> None:
        """Finish the scan voxels that need no plane behind `layer`: a part of the one cell."""
        own = layer & self._order.layout.finished_region(self._order.block)
        for cell, output in zip(self._cells, self._outputs, strict=True):
            if part := grid_map.completed(own) & cell.box:
                out = output[:, *part.relative_to(cell.box).slices]
                finish_on_scan_grid(self._slab, self._head, grid_map, part, out)

    def _room(self, cell: Cell) -> torch.Tensor:
        device = self._voxels.device
        if cell.is_seam:
            return torch.empty((self._head.num_sums, *cell.box.shape), device=device)
        return self._head.room(cell.box.shape, device)

    def _close(self) -> None:
        """Have the cells copied to the host; let go of the voxels."""
        self._downloads = [self._transfer.download(output) for output in self._outputs]
        if self._slab.broken is not None:
            self._broken = self._transfer.download(self._slab.broken)
        self._outputs, self._voxels, self._pieces = [], torch.empty(0), ()
