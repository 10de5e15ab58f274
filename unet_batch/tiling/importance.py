"""Importance maps: how much each voxel of a tile counts where tiles overlap."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unet_batch.tiling.box import Index

Importance = Literal["gaussian", "constant"]

SIGMA_SCALE = 0.125  # of the roi; MONAI's default (sliding_window_inference, `sigma_scale`)
MIN_WEIGHT = 1e-3  # MONAI's floor, so that no covered voxel ends with a weight of zero


@lru_cache(maxsize=16)
def importance_bells(
    roi: Index, kind: Importance
) -> tuple[tuple[NDArray[np.float32], ...], np.float32]:
    """The weights of a tile as a float32 factor along each axis, and the least product.

    A voxel's weight is the product of its factors, but at least the second value. `gaussian`
    is exp(-x^2 / 2 s^2), x counted from the tile's centre, s = 0.125 roi
    (`monai.data.utils.compute_importance_map`).
    """
    if kind == "constant":
        return tuple(np.ones(size, np.float32) for size in roi), np.float32(MIN_WEIGHT)
    bells = []
    for size in roi:
        x = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
        bells.append(np.exp(x**2 / np.float32(-2 * (SIGMA_SCALE * size) ** 2)))
    corner = np.float32(1)
    for bell in bells:
        corner *= bell.min()
    return tuple(bells), max(corner, np.float32(MIN_WEIGHT))


@lru_cache(maxsize=16)
def importance_map(roi: Index, kind: Importance) -> NDArray[np.float32]:
    """Blend weight of every voxel of a tile: float32 of shape `roi`, read-only."""
    bells, floor = importance_bells(roi, kind)
    weights = np.ones(roi, np.float32)
    for axis, bell in enumerate(bells):
        weights *= bell.reshape([-1 if a == axis else 1 for a in range(len(roi))])
    np.maximum(weights, floor, out=weights)
    weights.setflags(write=False)
    return weights
