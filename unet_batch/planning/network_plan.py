"""NetworkPlan: tile, batch and depth of a U-Net, derived from the scans as nnU-Net does.

Isensee et al.: nnU-Net, Nature Methods 2021, "Design of nnU-Net" and supplementary note 2; the
rules of its version 2 (`nnunetv2/experiment_planning`), with its constants where none is said:

- the tile starts as a cube in millimetres of 256³ voxels (2-D: a square of 2048²), no larger
  than the median scan, and is padded to what the network's strides divide;
- an axis is halved while it keeps 4 voxels, and while its voxels are at most twice the finest
  of those that can still be halved: thick slices wait until the others have caught up, and
  kernels along them are 1 wide until then;
- channels double from 32 at each level, to 320 at most (2-D: 512);
- the tile shrinks, where it is longest against the median scan, until a batch of 2 (2-D: 12)
  fits the memory; a larger batch takes what is left, but at most a twentieth of all voxels.

The network is the `dynunet` of `models.networks`, its coarser levels supervised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from statistics import median

from unet_batch.errors import MemoryBudgetError
from unet_batch.planning.network_memory import NetworkShape, training_bytes

Shape = tuple[int, ...]

MIN_EDGE = 4
"""Voxels that the deepest level keeps along an axis that is halved."""

_FIRST_CUBE = {2: 2048**2, 3: 256**3}
_MIN_BATCH = {2: 12, 3: 2}  # that a tile must leave room for
_SMALLEST_BATCH = 2  # where all scans together hold less
_MAX_FILTERS = {2: 512, 3: 320}
_FIRST_FILTERS = 32
_MAX_ANISOTROPY = 2.0
_MAX_SHARE = 0.05  # of all voxels in one batch
_FEWEST_LEVELS = 3  # what a `dynunet` can be built from


@dataclass(frozen=True, slots=True)
class Scans:
    """The Volumes to train on, on the network's grid: shapes (voxels) and one spacing (mm)."""

    shapes: tuple[Shape, ...]
    spacing_mm: tuple[float, ...]

    @property
    def median_shape(self) -> Shape:
        """Median voxels along each axis, rounded up."""
        return tuple(ceil(median(axis)) for axis in zip(*self.shapes, strict=True))

    @property
    def num_voxels(self) -> int:
        """Voxels of all Volumes."""
        return sum(prod(shape) for shape in self.shapes)


@dataclass(frozen=True, slots=True)
class Pyramid:
    """How a network halves its tile.

    `strides` lead from each level to the next; `kernels` has one level more.
    """

    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]

    @property
    def divisor(self) -> Shape:
        """What a tile's sizes are multiples of."""
        return tuple(prod(axis) for axis in zip(*self.strides, strict=True))


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What a `dynunet` is built from and trained on, and why, line by line."""

    roi: Shape
    batch_size: int
    shape: NetworkShape
    reasons: tuple[str, ...]

    def arguments(self) -> dict[str, object]:
        """Those of `models.networks.unets.dynunet`."""
        return {
            "filters": list(self.shape.filters),
            "strides": [list(step) for step in self.shape.strides],
            "kernels": [list(kernel) for kernel in self.shape.kernels],
            "deep_supervision": self.shape.num_supervised,
        }


def plan_network(
    scans: Scans,
    *,
    in_channels: int,
    num_classes: int,
    memory_budget: int,
    itemsize: int,
    roi: Shape | None = None,
    batch_size: int | None = None,
) -> NetworkPlan:
    """The NetworkPlan of `scans` (2-D or 3-D, as their spacing has two numbers or three).

    A training step takes at most `memory_budget` bytes, by `training_bytes` with activations
    of `itemsize` bytes. `roi` and `batch_size` are taken as they are where given. Raises
    MemoryBudgetError, with numbers, where no tile is small enough.
    """
    spacing, dims = scans.spacing_mm, len(scans.spacing_mm)
    wanted = batch_size or _MIN_BATCH[dims]

    def shape_of(tile: Shape) -> NetworkShape:
        return _network_shape(_pyramid(tile, spacing), in_channels, num_classes)

    def needed(tile: Shape, batch: int) -> int:
        return training_bytes(shape_of(tile), tile, batch_size=batch, itemsize=itemsize)

    first = roi or _padded(_first_tile(scans), spacing)
    tile = first
    while needed(tile, wanted) > memory_budget:
        smaller = None if roi else _shrunk(tile, scans)
        if smaller is None:
            raise _too_large(tile, wanted, needed(tile, wanted), memory_budget)
        tile = smaller
    batch = batch_size or _largest_batch(scans, tile, memory_budget, lambda n: needed(tile, n))
    shape = shape_of(tile)
    reasons = _reasons(scans, first, tile, shape, batch, needed(tile, batch), memory_budget)
    return NetworkPlan(tile, batch, shape, reasons)
