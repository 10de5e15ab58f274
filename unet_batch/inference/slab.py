"""Slab: the weighted logit sums of one Sweep, a window one tile deep that rolls with it.

A tile adds `weight * logits` to every voxel it covers. Once all tiles of a layer have
landed, no later tile reaches the voxels before the next layer's start: they are finished,
read out, and their room is used again. The window is a ring along the sweep axis, so
nothing is ever moved.

    sweep axis ->   [..finished..|=========ring=========|..not yet reached..]
                                 ^ cursor               ^ cursor + roi

Where the Head divides, the weights are summed beside the logits: a tile of ones, added alike.
Where voxels are interpolated afterwards, the last finished planes stay in the ring.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from unet_batch.inference.head import Head
from unet_batch.inference.sums import DeviceSums, HostSums, Sums
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.importance import Importance


class Slab:
    """Sums over `extent`, of which a ring as deep as the roi is held along `axis`.

    `cursor` is the first position along `axis` that is not finished; `planes_kept` positions
    before it are held as well. The sums are made when the first tile lands, on its device and
    in its layout, with weights where `with_weights` or the Head asks for them.
    """

    def __init__(
        self,
        *,
        extent: Box,
        axis: int,
        roi: Index,
        importance: Importance,
        head: Head,
        planes_kept: int = 0,
        with_weights: bool = False,
    ) -> None:
        self.extent, self.axis, self.cursor = extent, axis, extent.start[axis]
        self._roi, self._importance, self._head = roi, importance, head
        self._depth = min(roi[axis] + planes_kept, extent.shape[axis])
        self._planes_kept = planes_kept
        self._has_weights = with_weights or head.needs_weights
        self._sums: Sums | None = None
        self._weights: Sums | None = None
        self._ones, self._device = torch.empty(0), torch.device("cpu")

    def add(self, logits_czyx: torch.Tensor, tile: Box) -> None:
        """Add a tile's weighted logits; what reaches out of the extent is dropped."""
        sums = self._sums or self._allocate(logits_czyx)
        for ring, part in self._ring_parts(tile & self.extent):
            inside = part.relative_to(tile)
            sums.add(logits_czyx, ring, inside)
            if self._weights:
                self._weights.add(self._ones, ring, inside)

    def finish(self, box: Box, out_pzyx: torch.Tensor) -> None:
        """Write the Head's planes of `box` to `out_pzyx`, (planes, *box.shape) of integers.

        Where a sum is NaN or infinite BundleError is raised, or `broken` tells of it later.
        """
        if self._head.is_argmax and self._sums:
            for ring, part in self._ring_parts(box):
                self._sums.finish(ring, out_pzyx[0][part.relative_to(box).slices])
            return
        for part in self._head.pieces(box):
            sums = torch.empty((self._head.num_sums, *part.shape), device=out_pzyx.device)
            self.take(part, sums)
            out_pzyx[:, *part.relative_to(box).slices] = self._head.planes(sums)

    @property
    def broken(self) -> torch.Tensor | None:
        """On a device that is not waited for: whether a finished sum was NaN or infinite."""
        return self._sums.broken if self._sums else None

    def take(self, box: Box, out_czyx: torch.Tensor) -> None:
        """Move the sums of `box` to `out_czyx`, float32 (`head.num_sums`, *box.shape)."""
        if self._sums is None:
            out_czyx.zero_()  # every tile so far was skipped
            return
        for ring, part in self._ring_parts(box):
            room = out_czyx[:, *part.relative_to(box).slices]
            if self._weights:
                self._weights.take(ring, room[-1:])
                room = room[:-1]
            self._sums.take(ring, room)

    def logits(self, box: Box) -> torch.Tensor:
        """Logits float32 (members * classes, *box.shape), which stay here: sums over weights.

        0 where no tile was. Where the Head needs weights, last comes 1, or 0 there. Without
        weights the logits are the sums.
        """
        if self._sums is None:
            return torch.zeros((self._head.num_sums, *box.shape))  # every tile was skipped
        sums = self._read(self._sums, self._head.num_logits, box)
        if self._weights is None:
            return sums
        weights = self._read(self._weights, 1, box)
        sums /= torch.where(weights > 0, weights, 1)
        return torch.cat([sums, weights > 0]) if self._head.needs_weights else sums

    def clear_to(self, position: int) -> None:
        """Forget what lies before `position`, but for the planes that are kept."""
        start = max(self.cursor - self._planes_kept, self.extent.start[self.axis])
        layer = self._between(start, position - self._planes_kept)
        for ring, _ in self._ring_parts(layer):
            for sums in filter(None, (self._sums, self._weights)):
                sums.clear(ring)

    def layer(self, position: int) -> Box:
        """The part of the extent from the cursor to `position`."""
        return self._between(self.cursor, position)

    def _between(self, first: int, end: int) -> Box:
        axis, start, stop = self.axis, self.extent.start, self.extent.stop
        return Box(
            (*start[:axis], first, *start[axis + 1 :]), (*stop[:axis], end, *stop[axis + 1 :])
        )

    def _read(self, sums: Sums, num_values: int, box: Box) -> torch.Tensor:
        values = torch.empty((num_values, *box.shape), device=self._device)
        for ring, part in self._ring_parts(box):
            sums.read(ring, values[:, *part.relative_to(box).slices])
        return values

    def _allocate(self, logits_czyx: torch.Tensor) -> Sums:
        shape = list(self.extent.shape)
        shape[self.axis] = self._depth
        kind = HostSums if logits_czyx.device.type == "cpu" else DeviceSums
        make = partial(kind, shape=tuple(shape), roi=self._roi, importance=self._importance)
        self._sums, self._device = make(logits_czyx), logits_czyx.device
        if self._has_weights:
            self._ones = torch.ones((1, *self._roi), device=self._device)
            self._weights = make(self._ones)
        return self._sums

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
