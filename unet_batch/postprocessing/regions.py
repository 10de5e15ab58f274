"""Where labels are read from and written to: a pair of narrow interfaces, and one in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_batch.tiling.box import Box, Index

Labels = NDArray[np.unsignedinteger]
"""Label values (z, y, x)."""

Structure = NDArray[np.bool_]
"""3x3x3: which of its neighbours a voxel touches."""


class Source(Protocol):
    """Labels that can be read, box by box."""

    def read(self, box: Box) -> Labels:
        """The voxels of `box`; not to be written to."""
        ...


class Sink(Protocol):
    """Labels that can be written, one whole region after the other."""

    def write(self, region: Box, voxels_zyx: Labels) -> object:
        """Store the voxels of one of the regions."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Labels in an array: a Source and a Sink."""

    voxels_zyx: NDArray[Any]

    def read(self, box: Box) -> Labels:
        """A view of `box`."""
        return self.voxels_zyx[box.slices]

    def write(self, region: Box, voxels_zyx: Labels) -> None:
        """Copy `voxels_zyx` to their place."""
        self.voxels_zyx[region.slices] = voxels_zyx


@dataclass(frozen=True, slots=True)
class Work:
    """Labels on their way from a Source to a Sink.

    Attributes
    ----------
    source, sink: what is read and what is written; never the same voxels.
    shape_zyx: voxels of the volume.
    regions: Boxes in C order that cover the volume once, cut along one lattice.
    masks: label values of each mask; no value is in two.
    structure: which voxels touch.
    """

    source: Source
    sink: Sink
    shape_zyx: Index
    regions: Sequence[Box]
    masks: tuple[tuple[int, ...], ...]
    structure: Structure

    def rewrite(self, change: Callable[[int, Box, Labels], None]) -> None:
        """Write every region as `change` leaves it; it is given its number, Box and voxels."""
        for number, region in enumerate(self.regions):
            voxels = np.array(self.source.read(region))
            change(number, region, voxels)
            self.sink.write(region, voxels)

    def read_around(self, region: Box, margin: Index) -> Labels:
        """The labels of `region` and `margin` voxels on every side; 0 beyond the volume."""
        wide = Box(
            tuple(a - m for a, m in zip(region.start, margin, strict=True)),
            tuple(b + m for b, m in zip(region.stop, margin, strict=True)),
        )
        inside = wide & Box.from_shape(self.shape_zyx)
        before = np.subtract(inside.start, wide.start)
        after = np.subtract(wide.stop, inside.stop)
        return np.pad(self.source.read(inside), np.stack([before, after], axis=1))


def structure_for(connectivity: int, shape_zyx: Index) -> Structure:
    """Neighbours by faces (1), edges too (2), corners too (3).

    Along an axis of one voxel there are none: a volume of one plane is a 2-D image.
    """
    structure: Structure = ndimage.generate_binary_structure(3, connectivity)
    for axis, length in enumerate(shape_zyx):
        if length == 1:
            sides = [slice(None)] * 3
            sides[axis] = slice(None, None, 2)
            structure[tuple(sides)] = False
    return structure
