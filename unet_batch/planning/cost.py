"""Cost: what a Block weighs in memory, and how a volume is cut so that each fits the budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import ceil, prod

from unet_batch.errors import MemoryBudgetError
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

_SUM_BYTES = 4  # float32 sums and normalised voxels
_INDEX_BYTES = 12  # what reading out a layer needs for a voxel: a float32 value, an int64 index


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model weighs: classes and channels, bytes of weights and of one forward pass."""

    num_channels: int
    num_classes: int
    weight_bytes: int = 0
    forward_bytes: int = 0


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
    """
    grid, axis = layout.grid, layout.axis
    across = max(_across(extent, axis) for extent in layout.extents)
    length = max(
        layout.input_box(block).shape[axis]
        for k in range(len(layout.sweeps))
        for block in layout.blocks(k)[:2]
    )
    depth = min(grid.roi[axis], grid.shape[axis])
    seams = max(_seam_voxels(layout, k) for k in range(len(layout.sweeps)))
    return Footprint(
        model=model.weight_bytes + model.forward_bytes,
        voxels=model.num_channels * (itemsize + _SUM_BYTES) * length * across,
        slab=model.num_classes * _SUM_BYTES * depth * across,
        results=2 * length * across
        + _INDEX_BYTES * depth * across
        + model.num_classes * _SUM_BYTES * seams,
    )


def choose_layout(
    grid: TileGrid, model: ModelCost, *, itemsize: int, memory_budget: int, min_sweeps: int = 1
) -> BlockLayout:
    """The layout with the fewest Seams whose Blocks fit `memory_budget` bytes.

    Sweeps run along the longest axis, so that the plane across them is the smallest. The
    first layout that fits is taken: one Sweep with as many layers a Block as fit, then
    Sweeps cut across ever more finely. `min_sweeps` asks for cuts along the sweep axis, to
    share one volume out to several Replicas. Raises MemoryBudgetError, with numbers, where
    not even Sweeps one tile wide fit.
    """
    axis = max(range(len(grid.shape)), key=lambda a: (grid.counts[a], grid.shape[a], -a))
    smallest: Footprint | None = None
    for groups in _ever_finer(grid, axis, min_sweeps):
        for layers in _halvings(grid.counts[axis]):
            layout = BlockLayout(grid, axis, groups, layers)
            smallest = footprint(layout, model, itemsize)
            if smallest.total <= memory_budget:
                return layout
    raise MemoryBudgetError(
        f"a volume of {_times(grid.shape)} voxels with tiles of {_times(grid.roi)} and"
        f" {model.num_classes} classes needs at least {smallest}; resources.memory_budget is"
        f" {_mib(memory_budget)}. Raise it, or use a smaller inference.roi or batch_size"
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


def _across(extent: Box, axis: int) -> int:
    return prod(n for a, n in enumerate(extent.shape) if a != axis)


def _seam_voxels(layout: BlockLayout, sweep: int) -> int:
    """Voxels of the Seams that one Block of the Sweep hands out, at most."""
    return max(
        sum(cell.box.num_voxels for cell in layout.cells(block) if cell.is_seam)
        for block in layout.blocks(sweep)
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
