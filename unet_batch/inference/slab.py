"""Slab: the weighted logit sums of one Sweep, a window one tile deep that rolls with it.

A tile adds `weight * logits` to every voxel it covers. Once all tiles of a layer have
landed, no later tile reaches the voxels before the next layer's start: they are finished,
read out, and their room is used again. The window is a ring along the sweep axis, so
nothing is ever moved.

    sweep axis ->   [..finished..|=========ring=========|..not yet reached..]
                                 ^ cursor               ^ cursor + roi
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from unet_batch.inference.sums import DeviceSums, HostSums, Sums
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.importance import Importance


class Slab:
    """Sums over `extent`, of which a ring as deep as the roi is held along `axis`.

    `cursor` is the first position along `axis` that is not finished. The sums are made when
    the first tile lands, on its device and in its layout.
    """

    def __init__(self, *, extent: Box, axis: int, roi: Index, importance: Importance) -> None:
        self.extent, self.axis, self.cursor = extent, axis, extent.start[axis]
        self._roi, self._importance = roi, importance
        self._depth = min(roi[axis], extent.shape[axis])
        self._sums: Sums | None = None

    def add(self, logits_czyx: torch.Tensor, tile: Box) -> None:
        """Add a tile's weighted logits; what reaches out of the extent is dropped."""
        sums = self._sums = self._sums or self._allocate(logits_czyx)
        for ring, part in self._ring_parts(tile & self.extent):
            sums.add(logits_czyx, ring, part.relative_to(tile))

    def finish(self, box: Box, out: torch.Tensor) -> None:
        """Write the class index of every voxel of `box` to `out`, an integer tensor of its shape.

        Raises BundleError where a sum is NaN or infinite.
        """
        for ring, part in self._ring_parts(box):
            self._held.finish(ring, out[part.relative_to(box).slices])

    def take(self, box: Box, out: torch.Tensor) -> None:
        """Move the sums of `box` to `out`, float32 (classes, *box.shape)."""
        for ring, part in self._ring_parts(box):
            self._held.take(ring, out[:, *part.relative_to(box).slices])

    def clear_to(self, position: int) -> None:
        """Forget what lies before `position`."""
        for ring, _ in self._ring_parts(self.layer(position)):
            self._held.clear(ring)

    def layer(self, position: int) -> Box:
        """The part of the extent from the cursor to `position`."""
        axis, start, stop = self.axis, self.extent.start, self.extent.stop
        return Box(
            (*start[:axis], self.cursor, *start[axis + 1 :]),
            (*stop[:axis], position, *stop[axis + 1 :]),
        )

    @property
    def _held(self) -> Sums:
        if self._sums is None:
            raise RuntimeError("a Slab was read before any tile had landed")
        return self._sums

    def _allocate(self, logits_czyx: torch.Tensor) -> Sums:
        shape = list(self.extent.shape)
        shape[self.axis] = self._depth
        kind = HostSums if logits_czyx.device.type == "cpu" else DeviceSums
        return kind(logits_czyx, tuple(shape), roi=self._roi, importance=self._importance)

    def _ring_parts(self, box: Box) -> Iterator[tuple[Box, Box]]:
        """Boxes of the ring that hold `box`, each with the part of `box` it holds."""
        axis, origin = self.axis, self.extent.start[self.axis]
        position, stop = box.start[axis], box.stop[axis]
        while position < stop:
            first = (position - origin) % self._depth
            end = min(stop, position + self._depth - first)
            part = Box(
                (*box.start[:axis], position, *box.start[axis + 1 :]),
                (*box.stop[:axis], end, *box.stop[axis + 1 :]),
            )
            shift = [-n for n in self.extent.start]
            shift[axis] = first - position
            yield part.shift(shift), part
            position = end
