"""Timing: how long a network's bare forward pass takes on the device at hand."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch

from unet_batch.inference.engine import TorchEngine

REPEATS = 3


def seconds_per_tile(engine: TorchEngine, *, batch_size: int) -> float:
    """Seconds a tile in batches of `batch_size`: the median of three runs after one to warm up."""
    tiles = engine.tiles(max(2, batch_size)).normal_()
    with torch.inference_mode():
        engine.forward(tiles)
        return median(_seconds(engine, tiles) for _ in range(REPEATS)) / len(tiles)


def _seconds(engine: TorchEngine, tiles_nczyx: torch.Tensor) -> float:
    started = perf_counter()
    engine.forward(tiles_nczyx)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    return perf_counter() - started
