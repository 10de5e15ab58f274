"""Box: a half-open N-D region of voxels, the coordinate language of every layer above."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

Index = tuple[int, ...]


class Box(NamedTuple):
    """The voxels `start <= index < stop` along each axis.

    >>> Box((0, 0), (4, 4)) & Box((2, 3), (9, 9))
    Box(start=(2, 3), stop=(4, 4))
    """

    start: Index
    stop: Index

    @classmethod
    def from_shape(cls, shape: Sequence[int]) -> Box:
        """The Box of a whole array of `shape`."""
        return cls((0,) * len(shape), tuple(int(n) for n in shape))

    @property
    def shape(self) -> Index:
        """Voxels along each axis; 0 where the Box is empty."""
        return tuple(max(b - a, 0) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def num_voxels(self) -> int:
        """Product of `shape`."""
        return prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Slices that select this Box from an array whose first voxel is the origin."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def __bool__(self) -> bool:
        return self.num_voxels > 0

    def __and__(self, other: Box) -> Box:
        """The common region; empty (falsy) where the two do not meet."""
        start = tuple(map(max, self.start, other.start))
        return Box(start, tuple(map(max, start, map(min, self.stop, other.stop))))

    def holds(self, other: Box) -> bool:
        """Whether all of `other` lies in this Box."""
        return all(a <= b for a, b in zip(self.start, other.start, strict=True)) and all(
            a >= b for a, b in zip(self.stop, other.stop, strict=True)
        )

    def shift(self, offset: Sequence[int]) -> Box:
        """The Box moved by `offset` voxels."""
        return Box(
            tuple(a + d for a, d in zip(self.start, offset, strict=True)),
            tuple(b + d for b, d in zip(self.stop, offset, strict=True)),
        )

    def relative_to(self, origin: Box) -> Box:
        """This Box in the coordinates of an array that holds `origin`."""
        return self.shift(tuple(-a for a in origin.start))

    def split(self, shape: Sequence[int]) -> Iterator[Box]:
        """Cut along the global lattice of cells of `shape`, in C order.

        Cell borders lie at multiples of `shape` counted from voxel 0, not from `start`,
        so Boxes split by the same shape never straddle each other's cells.
        """
        bounds = list(zip(self.start, self.stop, shape, strict=True))
        if self and all(a // n == (b - 1) // n for a, b, n in bounds):
            yield self  # as of small scans: it lies in one cell
            return
        axes = [
            [(max(a, k * n), min(b, (k + 1) * n)) for k in range(a // n, -(-b // n))]
            for a, b, n in bounds
        ]
        for cell in product(*axes):
            yield Box(tuple(a for a, _ in cell), tuple(b for _, b in cell))


def bounding_box(boxes: Iterable[Box]) -> Box:
    """The smallest Box that holds all of `boxes`. Raises ValueError where there are none."""
    first, *rest = boxes
    start, stop = first.start, first.stop
    for box in rest:
        start, stop = tuple(map(min, start, box.start)), tuple(map(max, stop, box.stop))
    return Box(start, stop)
