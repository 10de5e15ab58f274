"""Lanes, as far as they are planned: threads of a Replica that predict batches side by side."""

from __future__ import annotations

from math import prod

MAX_LANES = 4
"""More would wait for each other: to land a tile takes up to a seventh of what its pass does."""

SMALL_TILE_VOXELS = 64**3
LEAST_BATCH = 2  # tiles: of one alone, torch is half as fast in float32

MOST_LEFT = 1
"""Batches whose logits wait for their turn, beside those that lanes are at work on: a pass takes
now a little longer, now a little less, but not twice as long."""


def lane_counts(num_cpus: int) -> list[int]:
    """How many lanes may share `num_cpus` cores evenly, the most first; 1 is always among them."""
    return [n for n in range(min(num_cpus, MAX_LANES), 0, -1) if num_cpus % n == 0]


def lane_batch(batch_size: int, num_lanes: int, roi_zyx: tuple[int, int, int]) -> int:
    """Tiles of one lane's batch.

    Lanes share out a batch of large tiles, so that they take no more memory than one would. Of
    small tiles each has a whole one: its forward pass is as short as what Python does for it.
    """
    share = max(LEAST_BATCH, batch_size // num_lanes)
    return share if num_lanes > 1 and are_large(roi_zyx) else batch_size


def are_large(roi_zyx: tuple[int, int, int]) -> bool:
    """Whether tiles are so large that two lanes with a batch each leave no cache to each other."""
    return prod(roi_zyx) > SMALL_TILE_VOXELS
