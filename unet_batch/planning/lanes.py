"""Lanes, as far as they are planned: threads of a Replica that predict batches side by side."""

from __future__ import annotations

from math import prod

MAX_LANES = 4
"""More would wait for each other: to land a tile takes up to a seventh of what its pass does."""

SMALL_TILE_VOXELS = 64**3
LEAST_BATCH = 2  # tiles: of one alone, torch is half as fast in float32

FULL_BATCH_VOXELS, MOST_TOGETHER = 2**19, 32
"""Voxels of small tiles, and how many of them, that a lane's batch has at least.

What Python and oneDNN do for each layer takes as long for a few voxels as for many: milliseconds
of one core for a tile of 40³ (three levels, Zen 4) are 5.82 in batches of 4, 5.47 of 8, 5.38 of 16.
"""

MOST_LEFT = 1
"""Batches whose logits wait for their turn, beside those that lanes are at work on: a pass takes
now a little longer, now a little less, but not twice as long."""


def lane_counts(num_cpus: int) -> list[int]:
    """How many lanes may share `num_cpus` cores evenly, the most first; 1 is always among them."""
    return [n for n in range(min(num_cpus, MAX_LANES), 0, -1) if num_cpus % n == 0]


def lane_batch(batch_size: int, num_lanes: int, roi_zyx: tuple[int, int, int]) -> int:
    """Tiles of one lane's batch.

    Lanes share out a batch of large tiles, so that they take no more memory than one would. Of
    small tiles each has a whole one, and a larger one where they are very small.
    """
    if num_lanes == 1:
        return batch_size
    if are_large(roi_zyx):
        return max(LEAST_BATCH, batch_size // num_lanes)
    return max(batch_size, min(FULL_BATCH_VOXELS // prod(roi_zyx), MOST_TOGETHER))


def are_large(roi_zyx: tuple[int, int, int]) -> bool:
    """Whether tiles are so large that two lanes with a batch each leave no cache to each other."""
    return prod(roi_zyx) > SMALL_TILE_VOXELS
