"""Predictor: Blocks in, finished cells out, on one device. It knows neither Ray nor Zarr.

    voxels of a Block -> normalise once -> tiles in batches -> network -> Slab -> cells

Batches run across layers, Blocks and Volumes of one call, so that an archive of small
volumes keeps the device as busy as one large scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import torch

from unet_batch.errors import BundleError, DeviceMemoryError, ReplicaError, UnetBatchError
from unet_batch.inference.block_pass import BlockOrder, BlockPass, BlockResult
from unet_batch.inference.engine import Engine
from unet_batch.inference.head import Head
from unet_batch.inference.memory import memory_errors
from unet_batch.inference.skipping import Piece, SkipRule
from unet_batch.inference.slab import Slab
from unet_batch.inference.transfer import transfer_for
from unet_batch.inference.voxels import assemble, copy_tile
from unet_batch.models.intensity import Normalizer
from unet_batch.models.resampling import to_model_grid
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.grid import TileGrid, indices
from unet_batch.tiling.importance import Importance

MOST_SKIPPED = 4  # tiles in a batch, in batch sizes


class Predictor:
    """An Engine with the rules of a Job: intensity, importance map, Head, batch size, skipping."""

    def __init__(
        self,
        engine: Engine,
        *,
        intensity: IntensitySpec,
        head: Head,
        importance: Importance,
        batch_size: int,
        skip: SkipRule | None = None,
    ) -> None:
        self.engine, self._intensity, self._batch_size = engine, intensity, batch_size
        self._importance: Importance = importance
        self._head, self._skip = head, skip
        self._transfer = transfer_for(engine.device)
        self._slabs: dict[tuple[str, int], Slab] = {}
        self.seconds: dict[str, float] = {}
        self._warnings: list[str] = []

    def predict(
        self, orders: Sequence[BlockOrder], inputs: Iterable[Sequence[Piece]]
    ) -> list[BlockResult]:
        """Predict Blocks, one BlockResult each; `inputs` holds each Block's pieces.

        Blocks of one Sweep must come in order, in this call or in earlier ones. A Volume
        that cannot be normalised fails alone, and so do Blocks for which there is no memory,
        even in the smallest batches. The network's own errors are raised.
        """
        self.seconds = {"normalise": 0.0, "forward": 0.0, "accumulate": 0.0, "finish": 0.0}
        results = [BlockResult() for _ in orders]
        begun: list[BlockPass] = []
        with torch.inference_mode():
            tiles = self._tiles(zip(orders, inputs, results, strict=True), begun)
            for batch in _batched(tiles, lambda: self._batch_size):
                self._predict_batch(batch)
            started = perf_counter()
            for one in begun:
                one.hand_out()
        self.seconds["finish"] += perf_counter() - started
        return results

    def warm_up(self) -> None:
        """Predict an empty batch: loads what is compiled, and takes the memory, beforehand."""
        tile = Box.from_shape(self.engine.frame.roi_zyx)
        slab = self._new_slab(tile, BlockLayout.whole(TileGrid.of(tile.stop, tile.stop, 0)))
        with torch.inference_mode():
            slab.add(self._empty_logits()[0], tile)
            slab.finish(tile, self._head.room(tile.shape, self.engine.device))

    def _empty_logits(self) -> torch.Tensor:
        """Logits of an empty batch, as large as there is memory for."""
        while True:
            size = max(self._batch_size, self.engine.min_batch)
            try:
                with memory_errors(self.engine.device, f"for a batch of {size} tiles"):
                    return self.engine.forward(self.engine.tiles(size).zero_())
            except DeviceMemoryError as error:
                if not self._use_smaller_batches(size, error):
                    raise

    def sample(self, order: BlockOrder, pieces: Sequence[Piece], max_tiles: int) -> torch.Tensor:
        """Normalised tiles from the middle of a Block, float32 (n, c, z, y, x)."""
        box, voxels = self._normalised(order, pieces)
        frame, every = self.engine.frame, list(indices(order.block.tiles))
        first = max(0, (len(every) - max_tiles) // 2)
        chosen = every[first : first + max_tiles]
        tiles = torch.empty((len(chosen), frame.in_channels, *frame.roi_zyx), device=voxels.device)
        for room, index in zip(tiles, chosen, strict=True):
            copy_tile(voxels, box, order.layout.grid.tile(index), room)
        return tiles

    def forget(self, volume_id: str) -> None:
        """Drop the slabs of a Volume that will not be continued here."""
        for key in [key for key in self._slabs if key[0] == volume_id]:
            del self._slabs[key]

    def take_warnings(self) -> tuple[str, ...]:
        """What was worked around since the last look, for a person."""
        taken, self._warnings = tuple(self._warnings), []
        return taken

    def _tiles(
        self,
        work: Iterable[tuple[BlockOrder, Sequence[Piece], BlockResult]],
        begun: list[BlockPass],
    ) -> Iterator[_Tile]:
        """The tiles of all Blocks in turn; each Block is noted in `begun`."""
        for order, pieces, result in work:
            try:
                with memory_errors(self.engine.device, "for the voxels of a Block"):
                    under_way = self._begin(order, pieces, result)
            except UnetBatchError as error:
                result.failure = str(error)
                result.is_short = isinstance(error, DeviceMemoryError)
                continue
            begun.append(under_way)
            for index in under_way.indices():
                if result.failure:
                    break
                yield _Tile(under_way, index, under_way.is_background(index))

    def _begin(self, order: BlockOrder, pieces: Sequence[Piece], result: BlockResult) -> BlockPass:
        started = perf_counter()
        box, voxels = self._normalised(order, pieces)
        self.seconds["normalise"] += perf_counter() - started
        slab, head = self._slab(order), self._head
        under_way = BlockPass(order, box, voxels, slab, head, result, self._transfer)
        if self._skip:
            under_way.skip_by(self._skip, pieces)
        return under_way

    def _normalised(self, order: BlockOrder, pieces: Sequence[Piece]) -> tuple[Box, torch.Tensor]:
        """The voxels a Block reads, normalised and on the model's grid, and where they lie."""
        normalizer, layout = Normalizer.fit(self._intensity, order.statistics), order.layout
        box = layout.input_box(order.block, rebuild=order.rebuild)
        scan = layout.read_box(order.block, rebuild=order.rebuild)
        voxels = assemble(scan, pieces, normalizer, self._transfer)
        if layout.grid_map:
            voxels = to_model_grid(voxels, scan, layout.grid_map, box)
        return box, voxels

    def _slab(self, order: BlockOrder) -> Slab:
        """The slab the Sweep's earlier Block left here, or a new one."""
        layout, block, axis = order.layout, order.block, order.layout.axis
        key = (order.volume_id, block.sweep)
        if block.number == 0 or order.rebuild:
            # Rebuilt, a Sweep begins with the first tile that reaches into the Block.
            extent = layout.extents[block.sweep]
            begin = layout.input_box(block, rebuild=True).start[axis]
            reached = Box((*extent.start[:axis], begin, *extent.start[axis + 1 :]), extent.stop)
            self._slabs[key] = self._new_slab(reached, layout)
        slab = self._slabs.get(key)
        if slab is None:
            raise ReplicaError(f"the slab of {key} is not here; send the Block with rebuild=True")
        if block == layout.blocks(block.sweep)[-1]:
            del self._slabs[key]
        return slab

    def _new_slab(self, extent: Box, layout: BlockLayout) -> Slab:
        return Slab(
            extent=extent,
            axis=layout.axis,
            roi=layout.grid.roi,
            importance=self._importance,
            head=self._head,
            planes_kept=layout.planes_kept,
            with_weights=bool(layout.grid_map and layout.grid_map.is_interpolated),
        )

    def _predict_batch(self, batch: Sequence[_Tile]) -> None:
        """Predict and land a batch; in smaller ones, for good, where there is no memory for it."""
        predicted = [one for one in batch if not one.is_skipped]
        size = max(len(predicted), self.engine.min_batch)
        try:
            with memory_errors(self.engine.device, f"for a batch of {size} tiles"):
                logits = self._forward(predicted) if predicted else ()
        except DeviceMemoryError as error:
            if not self._use_smaller_batches(size, error):
                for one in predicted:
                    one.under_way.fail(error)
                return
        else:
            self._land(batch, iter(logits))
            return
        for part in _batched(batch, lambda: self._batch_size):
            self._predict_batch(part)

    def _use_smaller_batches(self, size: int, error: DeviceMemoryError) -> bool:
        """Halve the batches after one of `size` tiles failed; False where they are smallest."""
        if size <= self.engine.min_batch:
            return False
        self._batch_size = max(size // 2, self.engine.min_batch)
        self._warnings.append(f"{error}; from here on batches have {self._batch_size} tiles")
        return True

    def _forward(self, batch: Sequence[_Tile]) -> torch.Tensor:
        started = perf_counter()
        # An Engine's results depend on no neighbour in a batch of `min_batch`: fill it up, so
        # that a Volume's labels do not depend on which others shared its batches.
        tiles = self.engine.tiles(max(len(batch), self.engine.min_batch))
        tiles[len(batch) :] = 0
        for room, tile in zip(tiles, batch, strict=False):
            tile.under_way.read_tile(tile.place, room)
        logits = self.engine.forward(tiles)[: len(batch)]
        self.seconds["forward"] += perf_counter() - started
        return logits

    def _land(self, batch: Sequence[_Tile], logits_czyx: Iterator[torch.Tensor]) -> None:
        for tile in batch:
            logits = None if tile.is_skipped else next(logits_czyx)
            try:
                with memory_errors(self.engine.device, "for the sums of a Block"):
                    self._land_tile(tile, logits)
            except (BundleError, DeviceMemoryError) as error:
                tile.under_way.fail(error)

    def _land_tile(self, tile: _Tile, logits_czyx: torch.Tensor | None) -> None:
        started = perf_counter()
        if logits_czyx is None:
            tile.under_way.skip()
        else:
            tile.under_way.add(tile.place, logits_czyx)
        landed = perf_counter()
        tile.under_way.finish_layer(tile.place)
        self.seconds["accumulate"] += landed - started
        self.seconds["finish"] += perf_counter() - landed


class _Tile(NamedTuple):
    """A tile on its way through the network, or past it."""

    under_way: BlockPass
    place: Index
    is_skipped: bool


def _batched(tiles: Iterable[_Tile], size: Callable[[], int]) -> Iterator[list[_Tile]]:
    """Tiles in order, `size()` that are predicted at once, and those skipped between them.

    Few are skipped at once: every Block in a batch holds its voxels until the batch has landed.
    """
    batch: list[_Tile] = []
    num_predicted = 0
    for tile in tiles:
        batch.append(tile)
        num_predicted += not tile.is_skipped
        is_full = num_predicted >= size() or len(batch) >= MOST_SKIPPED * size()
        if is_full or num_predicted == 0:
            yield batch
            batch, num_predicted = [], 0
    if batch:
        yield batch
