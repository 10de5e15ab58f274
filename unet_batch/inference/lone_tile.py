"""LoneTile: the slab of a Sweep that is a single tile, where there is nothing to sum.

The weight of a voxel is one positive number for all classes and changes no order, so labels
are read straight out of the logits. Archives of small volumes consist of such Sweeps.
"""

from __future__ import annotations

import torch
from typing_extensions import override

from unet_batch.inference.slab import Slab
from unet_batch.inference.sums import as_planes, finish, is_channels_last
from unet_batch.tiling.box import Box


class LoneTile(Slab):
    """A Slab of one tile, for a Head that is an argmax; it holds the logits until they are read."""

    _logits: torch.Tensor | None = None
    _tile: Box
    _broken: torch.Tensor | None = None

    @override
    def add(self, logits_czyx: torch.Tensor, tile: Box) -> None:
        """Take the tile's logits."""
        self._logits, self._tile = logits_czyx, tile

    @override
    def finish(self, box: Box, out_pzyx: torch.Tensor) -> None:
        """Write the class indices of `box`; background where the tile was skipped."""
        if self._logits is None:
            super().finish(box, out_pzyx)
            return
        inside = box.relative_to(self._tile)
        if self._logits.device.type == "cpu":
            is_last = is_channels_last(self._logits)
            planes = as_planes(self._logits, is_last=is_last)
            finish(planes, len(self._logits), inside, out_pzyx[0], is_last=is_last)
        else:
            best = self._logits[:, *inside.slices].max(0)
            self._broken = ~torch.isfinite(best.values.sum())
            out_pzyx[0] = best.indices
        self._logits = None

    @property
    @override
    def broken(self) -> torch.Tensor | None:
        return self._broken
