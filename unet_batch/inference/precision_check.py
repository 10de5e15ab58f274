"""Whether bfloat16 gives the labels that float32 gives, asked of two Engines on the same tiles.

bfloat16 keeps 8 bits of a number. Most networks do not notice: of random weights 0.1 to 0.5 %
of the voxels change their label, where two classes are nearly equal. Some do.
"""

from __future__ import annotations

import torch

from unet_batch.inference.engine import Engine
from unet_batch.inference.head import Head


def labels_differ(rough: Engine, exact: Engine, head: Head, tiles_nczyx: torch.Tensor) -> float:
    """Share of voxels of `tiles_nczyx` (float32, normalised) whose labels two Engines dispute."""
    with torch.inference_mode():
        ours, theirs = (_labels(engine, head, tiles_nczyx) for engine in (rough, exact))
    return float((ours != theirs).any(1).float().mean())


def _labels(engine: Engine, head: Head, tiles_nczyx: torch.Tensor) -> torch.Tensor:
    """Planes of labels (n, p, z, y, x) of tiles, each by itself."""
    number = len(tiles_nczyx)
    batch = engine.tiles(max(number, engine.min_batch)).zero_()
    batch[:number] = tiles_nczyx
    planes = []
    for logits in engine.forward(batch)[:number].float():
        weights = logits.new_ones((int(head.needs_weights), *logits.shape[1:]))
        planes.append(head.planes(torch.cat([logits, weights]))[: head.num_labels])
    return torch.stack(planes)
