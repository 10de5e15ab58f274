"""Cost: what a Block weighs in memory, and how a volume is cut so that each fits the budget.

Where a cut must be, its two sides either hand their sums over, which are stitched, or one of
them predicts the tiles that reach over the cut again. Both give the same labels: whichever
is predicted to take less time is chosen, cut by cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, inf, prod
from typing import Literal

from unet_batch.errors import MemoryBudgetError
from unet_batch.tiling.blocks import Block, BlockLayout
from unet_batch.tiling.box import Index
from unet_batch.tiling.grid import TileGrid
from unet_batch.tiling.grid_map import GridMap

_SUM_BYTES = 4  # float32 sums and normalised voxels
_READ_COPIES = 5  # sums, logits, probabilities and what lies between them
MAX_SUMS_READ = 2**20
"""Sums that a Head which divides reads at once: they and their copies stay near the caches."""

MAX_SUMS_RESAMPLED = 2**21
"""Logits that are resampled at once to the scan's grid, counted on the finer of the two."""

_INDEX_BYTES = 12  # what reading out a layer needs for a voxel: a float32 value, an int64 index


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model weighs: classes and channels, bytes of weights and of one forward pass.

    `tile_flops` are the floating-point operations of one tile; unknown, they count as too many
    to be done twice. An ensemble has the classes of `num_members` networks; `has_weights` says
    that weights are summed beside the logits; `num_planes` counts what is read out of a voxel:
    labels, and probabilities.
    """

    num_channels: int
    num_classes: int
    weight_bytes: int = 0
    forward_bytes: int = 0
    tile_flops: float = inf
    num_members: int = 1
    has_weights: bool = False
    num_planes: int = 1

    @property
    def num_sums(self) -> int:
        """Sums of one voxel."""
        return self.num_members * self.num_classes + self.has_weights

    def logit_bytes(self, roi_zyx: Sequence[int]) -> int:
        """Logits of a tile, in float32."""
        return _SUM_BYTES * self.num_members * self.num_classes * prod(roi_zyx)


Cuts = Literal["auto", "travel", "recompute"]
"""What is done at a cut: sums travel, tiles are recomputed, or `auto`: what takes less time."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Nominal speed of a Replica: the same request must be cut alike on every machine.

    `flops_per_second` of its network, and `bytes_per_second` at which sums are copied to
    Ray's object store, fetched by the Stitcher, added up and read out: 111 MB of two Replicas
    took 0.13 to 0.17 s on two cores, by workers that had torch.
    """

    flops_per_second: float
    bytes_per_second: float = 7e8

    def recomputes(self, grid: TileGrid, axis: int, first: int, model: ModelCost) -> bool:
        """Whether a cut before tile layer `first` of `axis` is cheaper recomputed."""
        starts, roi = grid.starts[axis], grid.roi[axis]
        layers = first - bisect_right(starts, starts[first] - roi)
        tiles = layers * _product_without(grid.counts, axis)
        depth = starts[first - 1] + roi - starts[first]
        voxels = depth * _product_without(grid.shape, axis)
        sum_bytes = 2 * _SUM_BYTES * model.num_sums * voxels  # both sides hand theirs out
        recompute_s = tiles * model.tile_flops / self.flops_per_second
        return recompute_s < sum_bytes / self.bytes_per_second


CPU_PACE = Pace(3e11)
"""Two cores with bf16: 35 ms for a 96³ tile of a residual U-Net 16-256 (10.2 GFLOP)."""

GPU_PACE = Pace(2e13)
"""A data-centre GPU: a few per cent of its peak, which convolutions of few channels reach."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes a Replica holds while it predicts one Block, by what they are for."""

    model: int
    voxels: int
    slab: int
    results: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.model + self.voxels + self.slab + self.results

    def __str__(self) -> str:
        parts = {"model": self.model, "voxels": self.voxels, "slab": self.slab}
        text = ", ".join(f"{name} {_mib(size)}" for name, size in parts.items())
        return f"{_mib(self.total)} ({text}, results {_mib(self.results)})"


def footprint(layout: BlockLayout, model: ModelCost, itemsize: int) -> Footprint:
    """The largest Footprint of the layout's Blocks; voxels of `itemsize` bytes on disk.

    Held at once are the raw and the normalised voxels of the Block, the slab (one tile deep
    across the Sweep), and the results: labels, sums of Seams, and a layer being read out.
    Where the model's grid is not the scan's, voxels are held on both, summed weights beside
    the logits, and the results are as large as what was read of the scan.
    """
    grid, axis = layout.grid, layout.axis
    across = max(_product_without(extent.shape, axis) for extent in layout.extents)
    depth = min(grid.roi[axis] + layout.planes_kept, grid.shape[axis])
    blocks = [block for k in range(len(layout.sweeps)) for block in layout.blocks(k)[:2]]
    voxels = max(_voxel_bytes(layout, block, itemsize) for block in blocks)
    results = max(layout.read_box(block).num_voxels for block in blocks)
    seams = max(_seam_voxels(layout, k) for k in range(len(layout.sweeps)))
    has_weights = model.has_weights or layout.grid_map is not None
    num_sums = model.num_sums + (has_weights and not model.has_weights)
    read_bytes = max(_INDEX_BYTES * depth * across, _read_bytes(model, depth * across))
    return Footprint(
        model=model.weight_bytes + model.forward_bytes,
        voxels=model.num_channels * voxels,
        slab=num_sums * _SUM_BYTES * depth * across,
        results=2 * model.num_planes * results
        + (_resample_bytes(layout, results, model.num_sums) if layout.grid_map else read_bytes)
        + model.num_sums * _SUM_BYTES * seams,
    )


def _resample_bytes(layout: BlockLayout, scan_voxels: int, num_sums: int) -> int:
    """Bytes of logits on both grids, and what the Head makes of them, for a piece of a layer."""
    voxels = max(scan_voxels, *(extent.num_voxels for extent in layout.extents))
    return _READ_COPIES * _SUM_BYTES * min(num_sums * voxels, MAX_SUMS_RESAMPLED)


def _voxel_bytes(layout: BlockLayout, block: Block, itemsize: int) -> int:
    """Bytes of one channel's voxels of a Block: raw, normalised, and on the model's grid."""
    read = layout.read_box(block).num_voxels
    if layout.grid_map is None:
        return (itemsize + _SUM_BYTES) * read
    is_turned = layout.grid_map.scan_axes != tuple(range(len(layout.grid.shape)))
    copies = 1 + is_turned  # normalised, and with its axes in the model's order
    return (itemsize + copies * _SUM_BYTES) * read + _SUM_BYTES * layout.input_box(block).num_voxels


def _read_bytes(model: ModelCost, num_voxels: int) -> int:
    """Bytes of sums, logits and probabilities while a Head that divides reads `num_voxels`."""
    if not model.has_weights:
        return 0
    return _READ_COPIES * _SUM_BYTES * min(model.num_sums * num_voxels, MAX_SUMS_READ)


def choose_layout(
    grid: TileGrid,
    model: ModelCost,
    *,
    itemsize: int,
    memory_budget: int,
    min_sweeps: int = 1,
    cuts: Cuts = "auto",
    pace: Pace = CPU_PACE,
    grid_map: GridMap | None = None,
) -> BlockLayout:
    """The layout with the fewest cuts whose Blocks fit `memory_budget` bytes.

    Sweeps run along the longest axis, so that the plane across them is the smallest. The
    first layout that fits is taken: one Sweep with as many layers a Block as fit, then
    Sweeps cut across ever more finely. `min_sweeps` asks for cuts along the sweep axis, to
    share one volume out to several Replicas; `cuts` and `pace` decide what is done at them,
    but with a `grid_map` from the scan all are recomputed, since sums cannot be resampled.
    Where `auto` has sums travel and nothing fits so, all cuts are recomputed: no sums wait to
    be handed out then. Raises MemoryBudgetError, with numbers, where not even Sweeps one tile
    wide fit.
    """
    axis = max(range(len(grid.shape)), key=lambda a: (grid.counts[a], grid.shape[a], -a))
    found: list[Footprint] = []
    for choice in _choices("recompute" if grid_map else cuts):
        for groups in _ever_finer(grid, axis, min_sweeps):
            recomputed = _recomputed(grid, groups, model, choice, pace)
            for layers in _halvings(grid.counts[axis]):
                layout = BlockLayout(grid, axis, groups, layers, recomputed, grid_map)
                found.append(footprint(layout, model, itemsize))
                if found[-1].total <= memory_budget:
                    return layout
    smallest = min(found, key=lambda one: one.total)
    is_bound = cuts == "travel" and grid_map is None
    raise MemoryBudgetError(
        f"a volume of {_times(grid.shape)} voxels{_resampled(grid_map)} with tiles of"
        f" {_times(grid.roi)} and"
        f" {model.num_classes} classes needs at least {smallest}; resources.memory_budget is"
        f" {_mib(memory_budget)}. Raise it, or use a smaller inference.roi or batch_size"
        f"{', or inference.cuts=auto' if is_bound else ''}"
    )


def _choices(cuts: Cuts) -> tuple[Cuts, ...]:
    """What may be done at cuts, first what takes less time, then what takes less memory."""
    return ("auto", "recompute") if cuts == "auto" else (cuts,)


def _recomputed(
    grid: TileGrid, groups: tuple[Index, ...], model: ModelCost, cuts: Cuts, pace: Pace
) -> tuple[Index, ...]:
    """The first tile indices, along each axis, of the groups whose cut is recomputed."""
    if cuts != "auto":
        return tuple(starts[1:] if cuts == "recompute" else () for starts in groups)
    return tuple(
        tuple(first for first in starts[1:] if pace.recomputes(grid, axis, first, model))
        for axis, starts in enumerate(groups)
    )


def _ever_finer(
    grid: TileGrid, axis: int, min_sweeps: int
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """First tile indices of the groups along each axis, with ever more groups across."""
    pieces = [min(min_sweeps, grid.counts[a]) if a == axis else 1 for a in range(len(grid.shape))]
    across = [a for a in range(len(grid.shape)) if a != axis]
    for _ in count():
        yield tuple(_even_starts(n, k) for n, k in zip(grid.counts, pieces, strict=True))
        widest = max(across, key=lambda a: grid.counts[a] / pieces[a])
        if pieces[widest] >= grid.counts[widest]:
            return
        pieces[widest] = min(2 * pieces[widest], grid.counts[widest])


def _even_starts(num_tiles: int, num_groups: int) -> tuple[int, ...]:
    return tuple(k * num_tiles // num_groups for k in range(num_groups))


def _halvings(number: int) -> Iterator[int]:
    while number > 1:
        yield number
        number = ceil(number / 2)
    yield 1


def _product_without(sizes: Index, axis: int) -> int:
    return prod(n for a, n in enumerate(sizes) if a != axis)


def _seam_voxels(layout: BlockLayout, sweep: int) -> int:
    """Voxels of the Seams that one Block of the Sweep hands out, at most."""
    return max(
        sum(cell.box.num_voxels for cell in layout.cells(block) if cell.is_seam)
        for block in layout.blocks(sweep)
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _resampled(grid_map: GridMap | None) -> str:
    if grid_map is None:
        return ""
    scan = [axis.scan_size for axis in sorted(grid_map.axes, key=lambda axis: axis.scan_axis)]
    return f" (resampled from {_times(tuple(scan))})"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
