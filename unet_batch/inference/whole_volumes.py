"""WholeVolumes: the tile engine over whole Volumes in this process, for a network in training.

The tiles, their blending and the resampling are those of `segment`, and so are the labels; but
nothing is stored, and neither Ray nor a Bundle is needed. Every Volume is one Sweep, walked in
Blocks of a few million voxels, so that only those and a slab of sums are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.errors import ReplicaError
from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.skipping import Piece
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.storage.volume import Volume
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

BLOCK_VOXELS = 2**23  # of one channel in a Block: 32 MiB once normalised
PACK_TILES = 32  # tiles of Blocks predicted together, so that those of small Volumes share batches

Planes = NDArray[np.unsignedinteger]
Segmented = tuple[str, Box, Planes]
"""Of a Volume, by its id, a region of the scan's grid and its planes of labels (p, z, y, x)."""


@dataclass(frozen=True, slots=True)
class WholeVolumes:
    """How a network sees Volumes. A plain value, that travels to workers.

    Attributes
    ----------
    frame: channels, classes and tile.
    head: how logits become labels.
    intensity, grid: how scans are normalised, and what they are resampled to.
    overlap, batch_size: as of `InferenceSpec`.
    """

    frame: Frame
    head: Head
    intensity: IntensitySpec
    grid: GridSpec = OWN_GRID
    overlap: float = 0.5
    batch_size: int = 4

    def __call__(
        self,
        network: torch.nn.Module,
        volumes: Sequence[Volume],
        *,
        device: torch.device,
        precision: Literal["fp32", "bf16"],
    ) -> Iterator[Segmented]:
        """Regions that make up each Volume, and their labels.

        Raises ReplicaError where a Volume cannot be predicted, as by a network whose logits
        are NaN.
        """
        predictor = Predictor(
            TorchEngine(network, self.frame, precision=precision, device=device),
            intensity=self.intensity,
            head=self.head,
            importance="gaussian",
            batch_size=self.batch_size,
        )
        by_id = {volume.id: volume for volume in volumes}
        for pack in _packs(order for volume in volumes for order in self._orders(volume)):
            pieces = (_pieces(by_id[order.volume_id], order) for order in pack)
            results = predictor.predict(pack, pieces)
            for order, result in zip(pack, results, strict=True):
                if result.failure:
                    raise ReplicaError(f"Volume {order.volume_id!r}: {result.failure}")
                cells = order.layout.cells(order.block)
                for cell, planes in zip(cells, result.cells, strict=True):
                    yield order.volume_id, cell.box, cast("Planes", planes)

    def _orders(self, volume: Volume) -> Iterator[BlockOrder]:
        layout = self._layout(volume)
        for block in layout.blocks(0):
            yield BlockOrder(volume.id, layout, block, volume.info.statistics)

    def _layout(self, volume: Volume) -> BlockLayout:
        """One Sweep along the longest axis, in Blocks of about BLOCK_VOXELS."""
        grid_map = self.grid.map_of(volume.info)
        shape = grid_map.model_shape if grid_map else volume.info.shape_zyx
        roi = self.frame.roi_zyx
        grid = TileGrid.of(shape, roi, self.overlap)
        axis = max(range(3), key=lambda one: grid.counts[one])
        plane = prod(shape) / shape[axis]
        depth = max(1, ceil(roi[axis] * (1 - self.overlap)))
        layers = max(1, int(BLOCK_VOXELS / (plane * depth)))
        return BlockLayout(grid, axis, ((0,), (0,), (0,)), layers, grid_map=grid_map)


def _packs(orders: Iterable[BlockOrder]) -> Iterator[list[BlockOrder]]:
    """Orders in their order, as many together as have PACK_TILES tiles and BLOCK_VOXELS voxels."""
    pack: list[BlockOrder] = []
    for order in orders:
        pack.append(order)
        tiles = sum(one.block.tiles.num_voxels for one in pack)
        voxels = sum(one.layout.input_box(one.block).num_voxels for one in pack)
        if tiles >= PACK_TILES or voxels >= BLOCK_VOXELS:
            yield pack
            pack = []
    if pack:
        yield pack


def _pieces(volume: Volume, order: BlockOrder) -> list[Piece]:
    """The raw voxels that a Block reads."""
    box = order.layout.read_box(order.block)
    voxels = volume.stored[(slice(None), *box.slices)]
    return [(Box((0, *box.start), (len(voxels), *box.stop)), voxels)]
