"""Predictor: Blocks in, finished cells out, on one device. It knows neither Ray nor Zarr.

    voxels of a Block -> normalise once -> tiles in batches -> network -> Slab -> cells

Batches run across layers, Blocks and Volumes of one call, so that an archive of small
volumes keeps the device as busy as one large scan. On a CPU several Lanes take them in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch

from unet_batch.errors import BundleError, DeviceMemoryError, ReplicaError, UnetBatchError
from unet_batch.inference.batching import Tile, batched, to_predict
from unet_batch.inference.block_pass import BlockOrder, BlockPass, BlockResult
from unet_batch.inference.engine import Engine
from unet_batch.inference.head import Head
from unet_batch.inference.lanes import Lanes
from unet_batch.inference.lone_tile import LoneTile
from unet_batch.inference.memory import memory_errors
from unet_batch.inference.skipping import Piece, SkipRule
from unet_batch.inference.slab import Slab
from unet_batch.inference.stopwatch import Stopwatch
from unet_batch.inference.transfer import transfer_for
from unet_batch.inference.voxels import assemble, copy_tile
from unet_batch.models.intensity import Normalizer
from unet_batch.models.process import return_freed_memory
from unet_batch.models.resampling import to_model_grid
from unet_batch.planning.lanes import lane_batch
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid, indices
from unet_batch.tiling.importance import Importance


class Predictor:
    """An Engine with the rules of a Job: intensity, importance map, Head, batch size, skipping.

    `num_lanes` batches are predicted side by side. Where finishing a layer is much work
    (probabilities, another grid) all cores share every batch instead: layers are finished one
    after the other.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        intensity: IntensitySpec,
        head: Head,
        importance: Importance,
        batch_size: int,
        skip: SkipRule | None = None,
        num_lanes: int = 1,
    ) -> None:
        self.engine, self._intensity = engine, intensity
        self._lanes, self._alone = Lanes(num_lanes if head.is_argmax else 1), Lanes()
        self._batch_size = lane_batch(batch_size, self._lanes.number, engine.frame.roi_zyx)
        self._importance: Importance = importance
        self._head, self._skip = head, skip
        self._transfer = transfer_for(engine.device)
        self._slabs: dict[tuple[str, int], Slab] = {}
        self._warnings: list[str] = []

    def predict(
        self,
        orders: Sequence[BlockOrder],
        inputs: Iterable[Sequence[Piece]],
        watch: Stopwatch | None = None,
    ) -> list[BlockResult]:
        """Predict Blocks, one BlockResult each; `inputs` holds each Block's pieces.

        Blocks of one Sweep must come in order, in this call or in earlier ones. A Volume
        that cannot be normalised fails alone, and so do Blocks for which there is no memory,
        even in the smallest batches. The network's own errors are raised. Calls that
        run in lanes may be under way at once, if each is of whole Volumes.
        """
        lanes, watch = self._lanes_for(orders), watch or Stopwatch()
        results = [BlockResult() for _ in orders]
        begun: list[BlockPass] = []
        tiles = self._tiles(zip(orders, inputs, results, strict=True), begun, watch)
        lanes.run(
            batched(tiles, lambda: self._batch_size),
            partial(self._predict_batch, watch),
            partial(self._land_batch, watch),
        )
        watch.share_out(lanes.number)
        with watch("finish"):
            for one in begun:
                one.hand_out()
        if lanes.number > 1 and any(order.layout.num_blocks > 1 for order in orders):
            return_freed_memory()  # a volume is cut where memory is what there is least of
        return results

    def runs_in_lanes(self, orders: Sequence[BlockOrder]) -> bool:
        """Whether a call with `orders` is done by lanes, and not by all cores together."""
        return self._lanes_for(orders).number > 1

    def _lanes_for(self, orders: Sequence[BlockOrder]) -> Lanes:
        """All cores share a batch where there is only one, or scans are on another grid."""
        is_regridded = any(order.layout.grid_map for order in orders)
        num_tiles = sum(order.block.tiles.num_voxels for order in orders)
        return self._alone if is_regridded or num_tiles <= self._batch_size else self._lanes

    @property
    def num_lanes(self) -> int:
        """Batches that are predicted side by side."""
        return self._lanes.number

    def warm_up(self) -> None:
        """Predict an empty batch: loads what is compiled, and takes the memory, beforehand."""
        tile = Box.from_shape(self.engine.frame.roi_zyx)
        with torch.inference_mode():
            logits, out = self._empty_logits()[0], self._head.room(tile.shape, self.engine.device)
            for num_tiles in (1, 2):
                shape = (num_tiles * tile.stop[0], *tile.stop[1:])
                slab = self._new_slab(tile, BlockLayout.whole(TileGrid.of(shape, tile.stop, 0)))
                slab.add(logits, tile)
                slab.finish(tile, out)

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
        watch: Stopwatch,
    ) -> Iterator[Tile]:
        """The tiles of all Blocks in turn; each Block is noted in `begun`."""
        for order, pieces, result in work:
            try:
                with memory_errors(self.engine.device, "for the voxels of a Block"):
                    under_way = self._begin(order, pieces, result, watch)
            except UnetBatchError as error:
                result.failure = str(error)
                result.is_short = isinstance(error, DeviceMemoryError)
                continue
            begun.append(under_way)
            for index in under_way.indices():
                if result.failure:
                    break
                yield Tile(under_way, index, under_way.is_background(index))

    @torch.inference_mode()
    def _begin(
        self, order: BlockOrder, pieces: Sequence[Piece], result: BlockResult, watch: Stopwatch
    ) -> BlockPass:
        with watch("normalise"):
            box, voxels = self._normalised(order, pieces)
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
        is_alone = layout.grid.num_tiles == 1 and self._head.is_argmax and not layout.grid_map
        return (LoneTile if is_alone else Slab)(
            extent=extent,
            axis=layout.axis,
            roi=layout.grid.roi,
            importance=self._importance,
            head=self._head,
            planes_kept=layout.planes_kept,
            with_weights=bool(layout.grid_map and layout.grid_map.is_interpolated),
        )

    @torch.inference_mode()
    def _predict_batch(
        self, watch: Stopwatch, batch: Sequence[Tile]
    ) -> Sequence[torch.Tensor] | DeviceMemoryError:
        """Logits of the tiles that are not skipped, or that there is no memory for them."""
        predicted = to_predict(batch)
        try:
            what = f"for a batch of {self._size(predicted)} tiles"
            with memory_errors(self.engine.device, what), watch("forward"):
                return tuple(self._forward(predicted)) if predicted else ()
        except DeviceMemoryError as error:
            return error

    @torch.inference_mode()
    def _land_batch(
        self,
        watch: Stopwatch,
        batch: Sequence[Tile],
        logits: Sequence[torch.Tensor] | DeviceMemoryError,
    ) -> None:
        """Land a batch; predict it in smaller ones, for good, where there was no memory for it."""
        if not isinstance(logits, DeviceMemoryError):
            self._land(batch, iter(logits), watch)
        elif self._use_smaller_batches(self._size(to_predict(batch)), logits):
            for part in batched(batch, lambda: self._batch_size):
                self._land_batch(watch, part, self._predict_batch(watch, part))
        else:
            for one in to_predict(batch):
                one.under_way.fail(logits)

    def _size(self, predicted: Sequence[Tile]) -> int:
        """Tiles that go through the network at once: a batch is filled up."""
        return max(len(predicted), self.engine.min_batch)

    def _use_smaller_batches(self, size: int, error: DeviceMemoryError) -> bool:
        """Halve the batches after one of `size` tiles failed; False where they are smallest."""
        if size <= self.engine.min_batch:
            return False
        self._batch_size = max(size // 2, self.engine.min_batch)
        self._warnings.append(f"{error}; from here on batches have {self._batch_size} tiles")
        return True

    def _forward(self, batch: Sequence[Tile]) -> torch.Tensor:
        # An Engine's results depend on no neighbour in a batch of `min_batch`: fill it up, so
        # that a Volume's labels do not depend on which others shared its batches.
        tiles = self.engine.tiles(self._size(batch))
        tiles[len(batch) :] = 0
        for room, tile in zip(tiles, batch, strict=False):
            tile.under_way.read_tile(tile.place, room)
        return self.engine.forward(tiles)[: len(batch)]

    def _land(
        self, batch: Sequence[Tile], logits_czyx: Iterator[torch.Tensor], watch: Stopwatch
    ) -> None:
        for tile in batch:
            logits = None if tile.is_skipped else next(logits_czyx)
            try:
                with memory_errors(self.engine.device, "for the sums of a Block"):
                    self._land_tile(tile, logits, watch)
            except (BundleError, DeviceMemoryError) as error:
                tile.under_way.fail(error)

    def _land_tile(self, tile: Tile, logits_czyx: torch.Tensor | None, watch: Stopwatch) -> None:
        with watch("accumulate"):
            if logits_czyx is None:
                tile.under_way.skip()
            else:
                tile.under_way.add(tile.place, logits_czyx)
        with watch("finish"):
            tile.under_way.finish_layer(tile.place)
