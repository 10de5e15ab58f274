"""Plan: the deterministic, lazy list of a Job's Blocks, and what they cost.

    Volumes (rows of the Catalog)  ->  VolumePlan: tile grid, cuts, Shards
                                   ->  Chains: Steps that one Replica runs in order

A Sweep of a large volume is a Chain of one Block a Step: the slab is inherited from Step to
Step. Small volumes, each a single Block, are packed, many to a Step, so that their tiles
share batches. The Plan depends on the Catalog and the Spec alone, never on what was already
done: a Job that is run again cuts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from unet_batch.errors import BundleError, UnetBatchError, VoxelError
from unet_batch.planning.cost import (
    CPU_PACE,
    Footprint,
    ModelCost,
    Pace,
    choose_layout,
    footprint,
)
from unet_batch.planning.lanes import MOST_LEFT, lane_batch, lane_counts
from unet_batch.planning.packing import full_pack, least_pack, packs
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo
from unet_batch.tiling.blocks import Block, BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid
from unet_batch.tiling.grid_map import GridMap

Shape3 = tuple[int, int, int]


class BlockKey(NamedTuple):
    """A Block by name: Volume, Sweep, position in the Sweep."""

    volume_id: str
    sweep: int
    number: int


Step = tuple[BlockKey, ...]
"""Blocks that one call to a Replica predicts."""

Chain = tuple[Step, ...]
"""Steps that one Replica runs in order."""


@dataclass(frozen=True)
class VolumePlan:
    """One Volume and its cuts. Its Labels are written by the Shards of its image."""

    info: VolumeInfo
    layout: BlockLayout

    @property
    def num_tiles(self) -> int:
        """Tiles to predict."""
        return self.layout.num_tiles

    @property
    def write_regions(self) -> Iterator[Box]:
        """Whole Shards, clipped to the volume."""
        return Box.from_shape(self.info.shape_zyx).split(self.info.shard_zyx)

    def block(self, key: BlockKey) -> Block:
        """The Block of this name."""
        return self.layout.blocks(key.sweep)[key.number]

    def chains(self) -> Iterator[Chain]:
        """One Chain a Sweep, one Block a Step."""
        for sweep in range(len(self.layout.sweeps)):
            blocks = self.layout.blocks(sweep)
            yield tuple((BlockKey(self.info.id, sweep, block.number),) for block in blocks)


@dataclass(frozen=True)
class Planner:
    """The rules that turn a Volume into a VolumePlan.

    Attributes
    ----------
    inference: how tiles are laid and blended.
    roi_zyx: the tile in voxels.
    model: what the model weighs.
    channels: names of the channels that the model takes.
    memory_budget: bytes a Replica may hold.
    min_sweeps: Sweeps a volume is cut into at least, to share it out to several Replicas.
    num_replicas: those that share the Volumes out.
    pace: a Replica's nominal speed, by which the treatment of each cut is chosen.
    grid: what scans are resampled to; tiles lie on that grid.
    """

    inference: InferenceSpec
    roi_zyx: Shape3
    model: ModelCost
    channels: tuple[str, ...]
    memory_budget: int
    min_sweeps: int = 1
    num_replicas: int = 1
    pace: Pace = CPU_PACE
    grid: GridSpec = OWN_GRID

    def plan(self, info: VolumeInfo) -> VolumePlan:
        """The Volume's plan.

        Raises BundleError where its channels do not fit the model, VoxelError where more
        voxels are NaN or infinite than the Spec allows, MemoryBudgetError where it cannot
        be cut small enough.
        """
        return VolumePlan(info, self.layout(info))

    def layout(self, volume: VolumeInfo | VolumeBrief) -> BlockLayout:
        """How the Volume is cut; raises as `plan`. Volumes of one shape share the answer."""
        self._check(volume)
        grid_map = self.grid.map_of(volume)
        return self._layout(volume.shape_zyx, np.dtype(volume.dtype).itemsize, grid_map)

    @property
    def least_pack(self) -> int:
        """Tiles of the smallest pack; fewer are a small Volume."""
        return least_pack(self.inference.batch_size)

    def full_pack(self, num_tiles: int) -> int:
        """Tiles at which a pack is full, where small Volumes have `num_tiles` together."""
        return full_pack(
            num_tiles,
            batch_size=self.inference.batch_size,
            roi_zyx=self.roi_zyx,
            num_replicas=self.num_replicas,
        )

    def footprint(self, plan: VolumePlan) -> Footprint:
        """Bytes a Replica holds for the Volume's largest Block."""
        return self.layout_footprint(plan.layout, plan.info.dtype)

    def layout_footprint(self, layout: BlockLayout, dtype: str) -> Footprint:
        """Bytes a Replica holds for the largest Block of `layout`, voxels being of `dtype`."""
        return footprint(layout, self.model, np.dtype(dtype).itemsize)

    def _check(self, info: VolumeInfo | VolumeBrief) -> None:
        if len(info.channels) != len(self.channels):
            raise BundleError(
                f"Volume {info.id!r} has {len(info.channels)} channels {list(info.channels)};"
                f" the model takes {len(self.channels)}: {list(self.channels)}"
            )
        nonfinite = info.num_nonfinite
        share = nonfinite / max(1, info.num_voxels * len(info.channels))
        if share > self.inference.max_nonfinite_share:
            raise VoxelError(
                f"Volume {info.id!r}: {nonfinite} voxels are NaN or infinite ({share:.2%});"
                f" inference.max_nonfinite_share allows {self.inference.max_nonfinite_share:.2%}"
            )

    @cached_property
    def _layout(self) -> Callable[[Shape3, int, GridMap | None], BlockLayout]:
        @lru_cache(maxsize=4096)
        def layout(shape: Shape3, itemsize: int, grid_map: GridMap | None) -> BlockLayout:
            tiled = grid_map.model_shape if grid_map else shape
            return choose_layout(
                TileGrid.of(tiled, self.roi_zyx, self.inference.overlap),
                self.model,
                itemsize=itemsize,
                memory_budget=self.memory_budget,
                min_sweeps=self.min_sweeps,
                cuts=self.inference.cuts,
                pace=self.pace,
                grid_map=grid_map,
            )

        return layout


class Plan:
    """All VolumePlans of a Job, and the Volumes that were refused, with the reason."""

    def __init__(self, planner: Planner, infos: Iterable[VolumeInfo]) -> None:
        self.planner = planner
        self.volumes: MutableMapping[str, VolumePlan] = {}
        self.refused: dict[str, str] = {}
        for info in infos:
            try:
                self.volumes[info.id] = planner.plan(info)
            except UnetBatchError as error:
                self.refused[info.id] = str(error)

    @property
    def num_tiles(self) -> int:
        """Tiles of all Volumes."""
        return sum(volume.num_tiles for volume in self.volumes.values())

    def tiles_of(self, volume_id: str) -> int:
        """Tiles of one Volume; none of one that was refused."""
        volume = self.volumes.get(volume_id)
        return volume.num_tiles if volume else 0

    @property
    def num_voxels(self) -> int:
        """Voxels of all Volumes."""
        return sum(volume.info.num_voxels for volume in self.volumes.values())

    @property
    def has_seams(self) -> bool:
        """Whether any Volume is cut so that sums travel."""
        return any(volume.layout.has_seams for volume in self.volumes.values())

    @property
    def largest_footprint(self) -> Footprint | None:
        """The Footprint of the heaviest Block of all, None where there is no Volume."""
        footprints = map(self.planner.footprint, self.volumes.values())
        return max(footprints, key=lambda one: one.total, default=None)

    def lanes_within_memory(self, num_cpus: int, *, forward_bytes: int | None = None) -> int:
        """How many lanes of a Replica of `num_cpus` cores its memory budget has room for.

        Each has a batch under way, and of small Volumes one of its own; the weights are shared,
        and so is the slab of a large Volume. Logits of MOST_LEFT batches wait for their turn.
        `forward_bytes` are those of a pass in the precision that is computed in, where less
        than the planned ones.
        """
        planner, model, largest = self.planner, self.planner.model, self.largest_footprint
        batch_size, small = planner.inference.batch_size, self._small_bytes()
        if largest is None:
            return 1
        a_pass = model.forward_bytes if forward_bytes is None else forward_bytes
        spared = model.forward_bytes - a_pass

        def needed(lanes: int) -> float:
            share = lane_batch(batch_size, lanes, planner.roi_zyx)
            large = largest.total - spared + (lanes * share / batch_size - 1) * a_pass
            packed = lanes * (small - spared - model.weight_bytes) + model.weight_bytes
            waiting = MOST_LEFT * share if lanes > 1 else 0
            return max(large, packed) + waiting * model.logit_bytes(planner.roi_zyx)

        fitting = (n for n in lane_counts(num_cpus) if needed(n) <= planner.memory_budget)
        return next(fitting, 1)

    def _small_bytes(self) -> int:
        """What a Replica holds for the heaviest Volume that is packed; 0 where none is."""
        small = filter(self._is_small, self.volumes.values())
        kinds = {(id(one.layout), one.info.dtype): one for one in small}  # equal ones are shared
        return max((self.planner.footprint(one).total for one in kinds.values()), default=0)

    def chains(self) -> Iterator[Chain]:
        """Chains of large volumes, the largest first, then packs of small ones.

        So that no Replica begins a large one when the others are through; volumes of a size
        come in the Catalog's order.
        """
        volumes = self.volumes.values()
        for volume in sorted(volumes, key=lambda one: one.num_tiles, reverse=True):
            if not self._is_small(volume):
                yield from volume.chains()
        small = [volume for volume in volumes if self._is_small(volume)]
        full = self.planner.full_pack(sum(volume.num_tiles for volume in small))
        sized = ((volume.info.id, volume.num_tiles) for volume in small)
        yield from map(packed, packs(sized, full))

    def _is_small(self, volume: VolumePlan) -> bool:
        return volume.layout.num_blocks == 1 and volume.num_tiles < self.planner.least_pack


def packed(ids: Iterable[str]) -> Chain:
    """The Chain of one Step that predicts small Volumes together."""
    return (tuple(BlockKey(volume_id, 0, 0) for volume_id in ids),)
