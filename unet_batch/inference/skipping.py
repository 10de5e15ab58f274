"""Skipping: tiles in which there is only background need no network.

The rule looks at the raw voxels, before any normalising or clipping: a tile all of whose voxels
are below a value, such as the air around a patient, adds nothing to the sums. What no other
tile covers is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.tiling.box import Box

Piece = tuple[Box, NDArray[np.generic]]
"""A box (c, z, y, x) of the volume and its raw voxels."""


@dataclass(frozen=True, slots=True)
class SkipRule:
    """Background are tiles whose voxels of channel number `channel` are all below `below`."""

    channel: int
    below: float

    @classmethod
    def of(cls, inference: InferenceSpec, channels: Sequence[str]) -> Self | None:
        """The rule of a Job whose model takes `channels`; None where every tile is predicted."""
        if inference.skip_below is None:
            return None
        wanted = inference.skip_channel
        return cls(channels.index(wanted) if wanted else 0, inference.skip_below)

    def holds(self, pieces: Sequence[Piece], box: Box) -> bool:
        """Whether `box` (z, y, x) is background. A NaN is not below anything."""
        wanted = Box((self.channel, *box.start), (self.channel + 1, *box.stop))
        parts = ((part & wanted, part, raw) for part, raw in pieces)
        return all(
            bool(np.less(raw[common.relative_to(part).slices], self.below).all())
            for common, part, raw in parts
            if common
        )
