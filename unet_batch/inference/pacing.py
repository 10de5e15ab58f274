"""Pacing: what a tile takes on an Engine, in the batches and lanes that a Job would use.

Engines that are compared are timed in turn, over and over: a machine that others use changes its
speed by a factor of two within seconds, which must fall on all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter

import torch

from unet_batch.errors import DeviceMemoryError
from unet_batch.inference.engine import Engine
from unet_batch.inference.lanes import Lanes
from unet_batch.inference.memory import memory_errors
from unet_batch.planning.lanes import lane_batch

TURNS, LEAST_S = 3, 0.3
"""How often, and how long at the least, an Engine is timed."""

TURN_S = 0.05
"""A turn's length, at the least: some passes of small tiles, the first of which find the threads
of another Engine still waiting for work, and busy with that."""


class Pace:
    """An Engine being timed; it is closed with this.

    Batches of `batch_size` tiles run side by side in `num_lanes`. Where memory runs out the batch
    is halved, as a Job would. Raises DeviceMemoryError where not even the smallest fits.
    """

    def __init__(self, engine: Engine, *, batch_size: int, num_lanes: int = 1) -> None:
        self._engine, self._lanes = engine, Lanes(num_lanes)
        self._found: list[float] = []
        try:
            self._tiles = self._warm_up(lane_batch(batch_size, num_lanes, engine.frame.roi_zyx))
        except Exception:
            self.close()
            raise

    @property
    def seconds_per_tile(self) -> float:
        """The median of what was measured."""
        return median(self._found)

    def measure(self) -> None:
        """Run batches in all lanes for a turn."""
        until, num_tiles = perf_counter() + TURN_S, len(self._tiles) * self._lanes.number
        while True:
            self._found.append(self._pass(self._tiles) / num_tiles)
            if perf_counter() >= until:
                return

    def close(self) -> None:
        """Let go of the Engine and of the lanes."""
        self._lanes.close()
        self._engine.close()

    def _warm_up(self, batch_size: int) -> torch.Tensor:
        """The batch that is measured, the largest that fits, after one pass of it."""
        while True:
            number = max(self._engine.min_batch, batch_size)
            try:
                with memory_errors(self._engine.device, f"to time a batch of {number} tiles"):
                    tiles = self._engine.tiles(number).normal_()
                    self._pass(tiles)
                    return tiles
            except DeviceMemoryError:
                if number == self._engine.min_batch:
                    raise
                batch_size = number // 2

    def _pass(self, tiles_nczyx: torch.Tensor) -> float:
        @torch.inference_mode()
        def forward(_: int) -> None:
            self._engine.forward(tiles_nczyx)

        started, device = perf_counter(), self._engine.device
        self._lanes.run(range(self._lanes.number), forward, lambda *_: None)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter() - started


def measure_in_turn(paces: Sequence[Pace]) -> None:
    """Measure all of them, turn about."""
    until, turns = perf_counter() + LEAST_S * len(paces), 0
    while turns < TURNS or perf_counter() < until:
        for pace in paces:
            pace.measure()
        turns += 1
