"""Instance norm's kernel: mean, variance, and the values in their place, by numba.

A tile's channels lie side by side, so a row of them is what is added at once. Deviations are taken
from the tile's first voxel: of their squares little cancels, however far the mean is from zero.
Rows are added in strips of a fixed length, and strips in order: results do not depend on how many
threads share them.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from unet_batch.inference.floats import load_float, save_float

_STRIP = 1024
"""Rows whose sums are float32; they are added up in float64."""

_MODE = {"contract", "nsz", "reassoc"}


@numba.njit(parallel=True, nogil=True, fastmath=_MODE, cache=True)
def normalise(rows: Any, weight: Any, bias: Any, eps: float, slope: Any) -> None:
    """Normalise `rows` (n, voxels, channels) in place: over the voxels of each tile and channel.

    They are float32, or bfloat16 as its bits. What is below 0 is multiplied by `slope`.
    """
    count, length, channels = rows.shape
    strips = (length + _STRIP - 1) // _STRIP
    sums = np.empty((count * strips, 2, channels), np.float32)
    for number in numba.prange(count * strips):
        first = number % strips * _STRIP
        tile = rows[number // strips]
        _add_up(tile[first : min(first + _STRIP, length)], tile[0], sums[number])
    factors = np.empty((count, 2, channels), np.float32)
    for number in range(count):
        of_tile = sums[number * strips : (number + 1) * strips]
        _find_factors(of_tile, rows[number, 0], length, weight, eps, factors[number])
    for number in numba.prange(count * strips):
        first = number % strips * _STRIP
        strip = rows[number // strips, first : min(first + _STRIP, length)]
        _apply(strip, factors[number // strips], bias, slope)


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _add_up(strip: Any, origin: Any, sums: Any) -> None:
    """The sums (2, channels) of a strip's deviations from `origin` and of their squares."""
    channels = strip.shape[1]
    start = np.empty(channels, np.float32)
    for k in range(channels):
        start[k] = load_float(origin[k])
    sums[:] = 0
    plain, squares = sums[0], sums[1]
    for number in range(strip.shape[0]):
        row = strip[number]
        for k in range(channels):
            deviation = load_float(row[k]) - start[k]
            plain[k] += deviation
            squares[k] += deviation * deviation


@numba.njit(nogil=True, cache=True)
def _find_factors(
    sums: Any, origin: Any, length: int, weight: Any, eps: float, factors: Any
) -> None:
    """Each channel's mean, and what deviations from it are multiplied by (2, channels)."""
    for k in range(sums.shape[2]):
        plain, squares = 0.0, 0.0
        for strip in range(sums.shape[0]):
            plain += np.float64(sums[strip, 0, k])
            squares += np.float64(sums[strip, 1, k])
        offset = plain / length
        variance = max(squares / length - offset * offset, 0.0)
        factors[0, k] = np.float64(load_float(origin[k])) + offset
        factors[1, k] = weight[k] / np.sqrt(variance + eps)


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _apply(strip: Any, factors: Any, bias: Any, slope: Any) -> None:
    """Replace a strip's values by those that are normalised and activated."""
    mean, factor = factors[0], factors[1]
    for number in range(strip.shape[0]):
        row = strip[number]
        for k in range(row.shape[0]):
            value = (load_float(row[k]) - mean[k]) * factor[k] + bias[k]
            row[k] = save_float(value if value >= 0 else slope * value, row[k])
