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
from dataclasses import dataclass
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
    """The Volumes to train on as the network sees them, on its own grid.

    `shapes` and `spacing_mm` have an entry for each of the network's axes: of a 2-D network
    those of its slices. `num_voxels` are those of all Volumes together.
    """

    shapes: tuple[Shape, ...]
    spacing_mm: tuple[float, ...]
    num_voxels: int

    @property
    def median_shape(self) -> Shape:
        """Median voxels along each axis, rounded up."""
        return tuple(ceil(median(axis)) for axis in zip(*self.shapes, strict=True))


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
    needs = _Needs(scans.spacing_mm, in_channels, num_classes, itemsize, memory_budget)
    first = roi or _padded(_first_tile(scans), scans.spacing_mm)
    wanted = batch_size or (_SMALLEST_BATCH if roi else _MIN_BATCH[len(scans.spacing_mm)])
    tile = _fitting_tile(scans, needs, first, wanted, may_shrink=roi is None)
    batch = batch_size or _fitting_batch(scans, needs, tile)
    reasons = (
        _reason_of_tile(scans, first, tile, is_given=roi is not None),
        _reason_of_depth(tile, needs.shape(tile)),
        _reason_of_batch(scans, tile, batch, is_given=batch_size is not None),
        f"memory: a step takes about {_gib(needs.num_bytes(tile, batch))} of"
        f" network.memory_budget {_gib(memory_budget)}, activations of {itemsize} bytes",
    )
    return NetworkPlan(tile, batch, needs.shape(tile), reasons)


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a tile's network is, and what training it takes; `budget` in bytes."""

    spacing_mm: tuple[float, ...]
    in_channels: int
    num_classes: int
    itemsize: int
    budget: int

    def shape(self, tile: Shape) -> NetworkShape:
        return _network_shape(halvings(tile, self.spacing_mm), self.in_channels, self.num_classes)

    def num_bytes(self, tile: Shape, batch_size: int) -> int:
        shape = self.shape(tile)
        return training_bytes(shape, tile, batch_size=batch_size, itemsize=self.itemsize)


def _fitting_tile(
    scans: Scans, needs: _Needs, tile: Shape, batch_size: int, *, may_shrink: bool
) -> Shape:
    while needs.num_bytes(tile, batch_size) > needs.budget:
        smaller = _shrunk(tile, scans) if may_shrink else None
        if smaller is None:
            taken = _gib(needs.num_bytes(tile, batch_size))
            raise MemoryBudgetError(
                f"network.name auto: training on batches of {batch_size} tiles of {_times(tile)}"
                f" takes about {taken}; network.memory_budget is {_gib(needs.budget)}. Raise it,"
                " or give a smaller roi or training.batch_size"
            )
        tile = smaller
    return tile


def _fitting_batch(scans: Scans, needs: _Needs, tile: Shape) -> int:
    """As large as memory and scans allow; two tiles fit in any case."""
    per_tile = needs.num_bytes(tile, 2) - needs.num_bytes(tile, 1)
    room = (needs.budget - needs.num_bytes(tile, 0)) // per_tile
    return max(min(room, _largest_batch(scans, tile)), _SMALLEST_BATCH)


def halvings(tile: Sequence[int], spacing_mm: Sequence[float]) -> Pyramid:
    """How a network halves `tile`, of voxels `spacing_mm`, level by level.

    >>> halvings((16, 32, 32), (5.0, 1.0, 1.0)).strides
    ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    """
    axes = range(len(tile))
    sizes, spacing = list(tile), list(spacing_mm)
    kernel = [1 for _ in axes]
    strides: list[Shape] = []
    kernels: list[Shape] = []
    while halved := _axes_to_halve(sizes, spacing):
        finest = min(spacing)
        kernel = [3 if spacing[a] / finest < _MAX_ANISOTROPY else kernel[a] for a in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in halved else 1 for a in axes))
        sizes = [ceil(sizes[a] / 2) if a in halved else sizes[a] for a in axes]
        spacing = [spacing[a] * strides[-1][a] for a in axes]
    missing = max(0, _FEWEST_LEVELS - 1 - len(strides))
    strides += [(1,) * len(tile)] * missing
    kernels += [(3,) * len(tile)] * (1 + missing)
    return Pyramid(tuple(strides), tuple(kernels))


def _axes_to_halve(sizes: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Axes long enough, of those the ones within twice the finest spacing."""
    long = [axis for axis, size in enumerate(sizes) if size >= 2 * MIN_EDGE]
    finest = min((spacing[axis] for axis in long), default=0.0)
    chosen = [axis for axis in long if spacing[axis] / finest < _MAX_ANISOTROPY]
    # A lone axis is halved only while a good deal is left (nnU-Net: three edges).
    if len(sizes) > 1 and len(chosen) == 1 and sizes[chosen[0]] < 3 * MIN_EDGE:
        return []
    return chosen


def _network_shape(pyramid: Pyramid, in_channels: int, num_classes: int) -> NetworkShape:
    num_levels = len(pyramid.kernels)
    most = _MAX_FILTERS[len(pyramid.kernels[0])]
    return NetworkShape(
        in_channels,
        num_classes,
        filters=tuple(min(most, _FIRST_FILTERS * 2**level) for level in range(num_levels)),
        strides=pyramid.strides,
        kernels=pyramid.kernels,
        # Not the deepest decoder level, whose logits say little (nnU-Net weighs it 0).
        num_supervised=max(1, num_levels - 3),
    )


def _first_tile(scans: Scans) -> Shape:
    """A cube in millimetres, no larger than the median scan."""
    density = [1 / one for one in scans.spacing_mm]
    dims = len(density)
    scale = (_FIRST_CUBE[dims] / prod(density)) ** (1 / dims)
    shape = scans.median_shape
    return tuple(max(1, min(round(one * scale), n)) for one, n in zip(density, shape, strict=True))


def _padded(tile: Shape, spacing_mm: Sequence[float]) -> Shape:
    """`tile` rounded up to what its own halvings divide."""
    divisor = halvings(tile, spacing_mm).divisor
    return tuple(ceil(n / d) * d for n, d in zip(tile, divisor, strict=True))


def _shrunk(tile: Shape, scans: Scans) -> Shape | None:
    """One step less along the axis that is longest against the median scan; None: no less."""
    divisor = halvings(tile, scans.spacing_mm).divisor
    shape = scans.median_shape
    for axis in sorted(range(len(tile)), key=lambda a: -tile[a] / shape[a]):
        # From the scan's own sizes: other axes may now need less padding, or more.
        sizes = [min(n, most) for n, most in zip(tile, shape, strict=True)]
        sizes[axis] = max(tile[axis] - divisor[axis], min(MIN_EDGE, tile[axis]))
        smaller = _padded(tuple(sizes), scans.spacing_mm)
        if prod(smaller) < prod(tile):
            return smaller
    return None


def _largest_batch(scans: Scans, tile: Shape) -> int:
    return round(_MAX_SHARE * scans.num_voxels / prod(tile))


def _reason_of_tile(scans: Scans, first: Shape, tile: Shape, *, is_given: bool) -> str:
    spacing = "x".join(f"{one:.3g}" for one in scans.spacing_mm)
    seen = (
        f"{len(scans.shapes)} Volumes, their median {_times(scans.median_shape)} voxels of"
        f" {spacing} mm"
    )
    if is_given:
        return f"tile {_times(tile)}: as the Spec says ({seen})"
    is_padded = any(n > most for n, most in zip(tile, scans.median_shape, strict=True))
    padded = ", padded to what the levels divide" if is_padded else ""
    shrunk = f", shrunk from {_times(first)} to fit the memory" if tile != first else ""
    return f"tile {_times(tile)}: {seen}{padded}{shrunk}"


def _reason_of_depth(tile: Shape, shape: NetworkShape) -> str:
    deepest = [
        n // d for n, d in zip(tile, Pyramid(shape.strides, shape.kernels).divisor, strict=True)
    ]
    waits = sum(len(set(step)) > 1 for step in shape.strides)
    thick = f"; {waits} of the steps leave thick or short axes as they are" if waits else ""
    return (
        f"depth {shape.num_levels} levels of {_listed(shape.filters)} channels: an axis is halved"
        f" while {MIN_EDGE} voxels are left, down to {_times(tuple(deepest))}{thick}"
    )


def _reason_of_batch(scans: Scans, tile: Shape, batch: int, *, is_given: bool) -> str:
    if is_given:
        return f"batch {batch}: as the Spec says"
    most = _largest_batch(scans, tile)
    if most < _SMALLEST_BATCH:
        why = "the smallest; a twentieth of all voxels holds fewer"
    elif batch == most:
        why = "a twentieth of all voxels"
    else:
        why = "what the memory has room for"
    return f"batch {batch}: {why}"


def _listed(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers))


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
