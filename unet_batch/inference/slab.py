"""Slab: the weighted logit sums of one Sweep, a window one tile deep that rolls with it.

A tile adds `weight * logits` to every voxel it covers. Once all tiles of a layer have
landed, no later tile reaches the voxels before the next layer's start: they are finished,
read out as labels (or as sums, where other Sweeps contribute), and their room is used
again. The window is a ring along the sweep axis, so nothing is ever moved.

    sweep axis ->   [..finished..|=========ring=========|..not yet reached..]
                                 ^ cursor               ^ cursor + roi

Labels need no division by the summed weights: dividing all classes of a voxel by the same
positive number changes neither the largest nor the sign.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from unet_batch.errors import BundleError
from unet_batch.tiling.box import Box


class Slab:
    """Sums float32 (classes, z, y, x) over `extent`, of which a ring along `axis` is held.

    `depth` is the roi along `axis`, in voxels. `cursor` is the first unfinished position.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        extent: Box,
        axis: int,
        depth: int,
        device: torch.device,
    ) -> None:
        self.extent, self.axis, self.cursor = extent, axis, extent.start[axis]
        shape = list(extent.shape)
        shape[axis] = self._depth = min(depth, shape[axis])
        self._sums = torch.zeros((num_classes, *shape), device=device)

    @property
    def num_bytes(self) -> int:
        """Memory of the sums."""
        return self._sums.nbytes

    def add(self, logits_czyx: torch.Tensor, tile: Box, weights_zyx: torch.Tensor) -> None:
        """Add a tile's weighted logits; what reaches out of the extent is dropped."""
        box = tile & self.extent
        for ring, part in self._ring_parts(box):
            inside = part.relative_to(tile).slices
            self._sums[:, *ring].addcmul_(logits_czyx[:, *inside].float(), weights_zyx[inside])

    def labels(self, box: Box, out: torch.Tensor) -> None:
        """Write the class index of every voxel of `box` to `out`, an integer tensor of its shape.

        Raises BundleError where a sum is NaN or infinite.
        """
        for ring, part in self._ring_parts(box):
            out[part.relative_to(box).slices] = class_indices(self._sums[:, *ring])

    def sums(self, box: Box, out: torch.Tensor) -> None:
        """Copy the sums of `box` to `out`, float32 (classes, *box.shape)."""
        for ring, part in self._ring_parts(box):
            out[:, *part.relative_to(box).slices] = self._sums[:, *ring]

    def advance(self, position: int) -> None:
        """Give the room before `position` back; it must have been read out."""
        start, stop = list(self.extent.start), list(self.extent.stop)
        start[self.axis], stop[self.axis] = self.cursor, position
        for ring, _ in self._ring_parts(Box(tuple(start), tuple(stop))):
            self._sums[:, *ring] = 0
        self.cursor = position

    def _ring_parts(self, box: Box) -> Iterator[tuple[tuple[slice, ...], Box]]:
        """Slices of the ring that hold `box`, each with the part of `box` it holds."""
        axis, origin = self.axis, self.extent.start[self.axis]
        position, stop = box.start[axis], box.stop[axis]
        while position < stop:
            first = (position - origin) % self._depth
            end = min(stop, position + self._depth - first)
            part = Box(
                (*box.start[:axis], position, *box.start[axis + 1 :]),
                (*box.stop[:axis], end, *box.stop[axis + 1 :]),
            )
            ring = list(part.relative_to(self.extent).slices)
            ring[axis] = slice(first, first + end - position)
            yield tuple(ring), part
            position = end


def class_indices(sums_czyx: torch.Tensor) -> torch.Tensor:
    """Index of the largest class of every voxel; the lower index where two are equal.

    `max(0)` rather than `argmax(0)`, which is 10 to 40 times slower classes-first.
    Raises BundleError where a sum is NaN or infinite.
    """
    best = sums_czyx.max(0)
    if not torch.isfinite(best.values.sum()):
        raise BundleError(
            "the network's logits are NaN or infinite; check its weights, or predict with"
            " inference.precision=fp32"
        )
    return best.indices
