"""Predictor: Blocks in, finished cells out, on one device. It knows neither Ray nor Zarr.

    voxels of a Block -> normalise once -> tiles in batches -> network -> Slab -> cells

Batches run across layers, Blocks and Volumes of one call, so that an archive of small
volumes keeps the device as busy as one large scan.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.errors import BundleError, ReplicaError, UnetBatchError
from unet_batch.inference.engine import Engine
from unet_batch.inference.slab import Slab
from unet_batch.models.intensity import Normalizer
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import Block, BlockLayout, Cell
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.grid import indices
from unet_batch.tiling.importance import Importance

Array = NDArray[np.generic]
Piece = tuple[Box, Array]
"""A box (c, z, y, x) of the volume and its raw voxels."""


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

    A cell of one Sweep is labels, unsigned (z, y, x); a Seam is sums, float32 (c, z, y, x).
    """

    cells: list[Array] = field(default_factory=list)
    failure: str = ""
    num_tiles: int = 0


class Predictor:
    """An Engine with the rules of a Job: intensity, importance map, batch size, label values."""

    def __init__(
        self,
        engine: Engine,
        *,
        intensity: IntensitySpec,
        class_values: Sequence[int],
        importance: Importance,
        batch_size: int,
    ) -> None:
        self.engine, self._intensity, self._batch_size = engine, intensity, batch_size
        self._importance: Importance = importance
        self._values = np.array(class_values, label_dtype(class_values))
        self._slabs: dict[tuple[str, int], Slab] = {}
        self.seconds: dict[str, float] = {}

    def predict(
        self, orders: Sequence[BlockOrder], inputs: Iterable[Sequence[Piece]]
    ) -> list[BlockResult]:
        """Predict Blocks, one BlockResult each; `inputs` holds each Block's pieces.

        Blocks of one Sweep must come in order, in this call or in earlier ones. A Volume
        that cannot be normalised fails alone. The network's own errors are raised.
        """
        self.seconds = {"normalise": 0.0, "forward": 0.0, "accumulate": 0.0, "finish": 0.0}
        results = [BlockResult() for _ in orders]
        with torch.inference_mode():
            tiles = self._tiles(zip(orders, inputs, results, strict=True))
            for batch in _batched(tiles, self._batch_size):
                self._land(batch, self._forward(batch))
        return results

    def warm_up(self) -> None:
        """Predict an empty batch: loads what is compiled, and takes the memory, beforehand."""
        tile = Box.from_shape(self.engine.frame.roi_zyx)
        slab = Slab(extent=tile, axis=0, roi=tile.stop, importance=self._importance)
        with torch.inference_mode():
            batch = self.engine.tiles(max(self._batch_size, self.engine.min_batch)).zero_()
            slab.add(self.engine.forward(batch)[0], tile)
            slab.finish(tile, torch.empty(tile.shape, dtype=torch.uint8, device=batch.device))

    def forget(self, volume_id: str) -> None:
        """Drop the slabs of a Volume that will not be continued here."""
        for key in [key for key in self._slabs if key[0] == volume_id]:
            del self._slabs[key]

    def _tiles(
        self, work: Iterable[tuple[BlockOrder, Sequence[Piece], BlockResult]]
    ) -> Iterator[tuple[_Pass, Index]]:
        for order, pieces, result in work:
            try:
                under_way = self._begin(order, pieces, result)
            except UnetBatchError as error:
                result.failure = str(error)
                continue
            for index in under_way.indices():
                if result.failure:
                    break
                yield under_way, index

    def _begin(self, order: BlockOrder, pieces: Sequence[Piece], result: BlockResult) -> _Pass:
        started = perf_counter()
        normalizer = Normalizer.fit(self._intensity, order.statistics)
        box = order.layout.input_box(order.block, rebuild=order.rebuild)
        voxels = _assemble(box, pieces, normalizer, self.engine.device)
        self.seconds["normalise"] += perf_counter() - started
        return _Pass(order, box, voxels, self._slab(order), self._values, result)

    def _slab(self, order: BlockOrder) -> Slab:
        """The slab the Sweep's earlier Block left here, or a new one."""
        layout, block, axis = order.layout, order.block, order.layout.axis
        key = (order.volume_id, block.sweep)
        if block.number == 0 or order.rebuild:
            # Rebuilt, a Sweep begins with the first tile that reaches into the Block.
            extent = layout.extents[block.sweep]
            begin = layout.input_box(block, rebuild=True).start[axis]
            self._slabs[key] = Slab(
                extent=Box((*extent.start[:axis], begin, *extent.start[axis + 1 :]), extent.stop),
                axis=axis,
                roi=layout.grid.roi,
                importance=self._importance,
            )
        slab = self._slabs.get(key)
        if slab is None:
            raise ReplicaError(f"the slab of {key} is not here; send the Block with rebuild=True")
        if block == layout.blocks(block.sweep)[-1]:
            del self._slabs[key]
        return slab

    def _forward(self, batch: Sequence[tuple[_Pass, Index]]) -> torch.Tensor:
        started = perf_counter()
        # An Engine's results depend on no neighbour in a batch of `min_batch`: fill it up, so
        # that a Volume's labels do not depend on which others shared its batches.
        tiles = self.engine.tiles(max(len(batch), self.engine.min_batch))
        tiles[len(batch) :] = 0
        for room, (under_way, index) in zip(tiles, batch, strict=False):
            under_way.read_tile(index, room)
        logits = self.engine.forward(tiles)[: len(batch)]
        self.seconds["forward"] += perf_counter() - started
        return logits

    def _land(self, batch: Sequence[tuple[_Pass, Index]], logits_nczyx: torch.Tensor) -> None:
        for (under_way, index), logits in zip(batch, logits_nczyx, strict=True):
            started = perf_counter()
            under_way.add(index, logits)
            landed = perf_counter()
            try:
                under_way.finish_layer(index)
            except BundleError as error:
                under_way.fail(error)
            self.seconds["accumulate"] += landed - started
            self.seconds["finish"] += perf_counter() - landed


class _Pass:
    """One Block under way: its normalised voxels, its slab, its cells being filled."""

    def __init__(
        self,
        order: BlockOrder,
        box: Box,
        voxels_czyx: torch.Tensor,
        slab: Slab,
        values: NDArray[np.unsignedinteger],
        result: BlockResult,
    ) -> None:
        self._order, self._box, self._voxels, self._slab = order, box, voxels_czyx, slab
        self._values, self._result = values, result
        self._cells = order.layout.cells(order.block)
        self._outputs = [self._room(cell) for cell in self._cells]

    def indices(self) -> Iterator[Index]:
        """Indices of the tiles to predict, layer after layer."""
        layout, block = self._order.layout, self._order.block
        if self._order.rebuild:
            yield from indices(layout.rebuild_tiles(block), outer=layout.axis)
        yield from indices(block.tiles, outer=layout.axis)

    def read_tile(self, index: Index, room_czyx: torch.Tensor) -> None:
        """Copy a tile's voxels to `room_czyx`, zero where it reaches out of the volume."""
        tile = self._order.layout.grid.tile(index)
        inside = tile & self._box
        if inside != tile:
            room_czyx.zero_()
        source = self._voxels[:, *inside.relative_to(self._box).slices]
        room_czyx[:, *inside.relative_to(tile).slices] = source

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
        if position > layout.finished_region(self._order.block).start[axis]:
            self._read_out(self._slab.layer(position))
        else:
            self._slab.clear_to(position)  # rebuilt only for what reaches into the Block
        self._slab.cursor = position
        if following == self._order.block.tiles.stop[axis]:
            self._close()

    def fail(self, error: Exception) -> None:
        """Give the Block up: nothing of it is handed out."""
        self._result.failure = str(error)
        self._result.cells = []

    def _read_out(self, layer: Box) -> None:
        for cell, output in zip(self._cells, self._outputs, strict=True):
            part = cell.box & layer
            if not part:
                continue
            inside = part.relative_to(cell.box).slices
            if cell.is_seam:
                self._slab.take(part, output[:, *inside])
            else:
                self._slab.finish(part, output[inside])

    def _room(self, cell: Cell) -> torch.Tensor:
        device = self._voxels.device
        if cell.is_seam:
            return torch.empty((len(self._values), *cell.box.shape), device=device)
        dtype = torch.uint8 if len(self._values) <= 256 else torch.int32
        return torch.empty(cell.box.shape, dtype=dtype, device=device)

    def _close(self) -> None:
        """Hand the cells out as label values and sums; let go of the voxels."""
        for cell, output in zip(self._cells, self._outputs, strict=True):
            array = output.cpu().numpy()
            self._result.cells.append(array if cell.is_seam else self._values[array])
        self._outputs, self._voxels = [], torch.empty(0)


def _assemble(
    box: Box, pieces: Sequence[Piece], normalizer: Normalizer, device: torch.device
) -> torch.Tensor:
    """Normalised voxels float32 (c, *box.shape) from raw pieces, each normalised on the device."""
    whole = Box((0, *box.start), (len(normalizer.channels), *box.stop))
    if [part for part, _ in pieces] == [whole]:
        return normalizer.apply(_as_tensor(pieces[0][1], device))
    voxels = torch.empty(whole.shape, device=device)
    for part, raw in pieces:
        channels = normalizer.channels[part.start[0] : part.stop[0]]
        values = replace(normalizer, channels=channels).apply(_as_tensor(raw, device))
        voxels[part.relative_to(whole).slices] = values
    return voxels


def _as_tensor(array: Array, device: torch.device) -> torch.Tensor:
    """`array` without a copy where it lies on the device; never written to."""
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, which torch cannot express.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


def label_dtype(class_values: Sequence[int]) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds every label value."""
    return np.dtype(np.uint8 if max(class_values) < 256 else np.uint16)


def _batched(
    tiles: Iterable[tuple[_Pass, Index]], size: int
) -> Iterator[list[tuple[_Pass, Index]]]:
    batch: list[tuple[_Pass, Index]] = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
