"""Engines made of Engines: flips of the tile averaged, and members of an ensemble side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch

from unet_batch.errors import BundleError
from unet_batch.inference.engine import Engine
from unet_batch.planning.specs.segment import MirrorAxis

_DIMENSIONS = {"z": 2, "y": 3, "x": 4}
"""Of a batch (n, c, z, y, x)."""


class MirroredEngine:
    """Logits averaged over the tile and its mirror images, for every combination of `axes`.

    As nnU-Net does at test time (Isensee et al. 2021, supplementary note 2): with k axes the
    network runs 2^k times. The mean is taken before softmax, in float32.
    """

    def __init__(self, engine: Engine, axes: Sequence[MirrorAxis]) -> None:
        self.inner = engine
        dims = [_DIMENSIONS[axis] for axis in axes]
        self._flips = [flip for k in range(1, len(dims) + 1) for flip in combinations(dims, k)]
        self.name = f"{engine.name}, mirrored along {''.join(axes)}"
        self.frame, self.device, self.min_batch = engine.frame, engine.device, engine.min_batch

    def tiles(self, count: int) -> torch.Tensor:
        """An uninitialised batch of `count` tiles."""
        return self.inner.tiles(count)

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Mean logits of a batch, float32."""
        # A copy: what an Engine returns may be its own memory, used again by the next pass.
        total = self.inner.forward(tiles_nczyx).to(torch.float32, copy=True)
        for flip in self._flips:
            total += self.inner.forward(tiles_nczyx.flip(flip)).flip(flip)
        return total.div_(1 + len(self._flips))

    def close(self) -> None:
        """Let go of the device's memory."""
        self.inner.close()


class EnsembleEngine:
    """Several networks on the same tiles; their logits (members * classes) lie side by side.

    They are averaged as probabilities where sums are finished (`Head`), as MONAI's
    `MeanEnsemble` after an activation would on whole volumes.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        first = engines[0]
        if len({(engine.frame, engine.device) for engine in engines}) > 1:
            frames = ", ".join(str(engine.frame) for engine in engines)
            raise BundleError(f"members of an ensemble must share tile and classes; got {frames}")
        self._engines = engines
        self.name = " + ".join(engine.name for engine in engines)
        self.frame, self.device = replace(first.frame, num_members=len(engines)), first.device
        self.min_batch = max(engine.min_batch for engine in engines)

    def tiles(self, count: int) -> torch.Tensor:
        """An uninitialised batch of `count` tiles, in the most precise type a member takes."""
        batches = (engine.tiles(count) for engine in self._engines)
        return max(batches, key=lambda batch: batch.itemsize)

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Logits of all members, one after another along the channels."""
        return torch.cat([engine.forward(tiles_nczyx) for engine in self._engines], dim=1)

    def close(self) -> None:
        """Let go of the device's memory."""
        for engine in self._engines:
            engine.close()
