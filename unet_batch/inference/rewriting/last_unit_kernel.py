"""Last unit's kernel: an activation and a convolution 3 wide of a few channels, by numba.

A strip of rows is computed layer by layer. Three layers of the activated input are held, each
three times over, moved by one voxel along x: so all that is multiplied lies on cache lines, and
rows lie end to end, of which several are one loop. Indices that are sums are made unsigned: as
long as they might count from an array's end, nothing is computed side by side.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from unet_batch.inference.floats import load_float, save_float
from unet_batch.inference.vectors import LANES, LINE_BYTES, aligned

_ROWS = 8
"""Rows of results that are under way at once: they stay in the first cache."""

_STRIP_BYTES = 2**18
"""What the held layers may take: a quarter of a core's second cache."""

_MODE = {"contract", "nsz"}


@numba.njit(parallel=True, nogil=True, fastmath=_MODE, cache=True)
def convolve_phases(words: Any, weight: Any, bias: Any, slope: Any, out: Any) -> None:
    """Logits `out` (n, z, y, x * channel) of phases (n, z / 2 + 1, y / 2 + 1, x / 2 + 1, words).

    The phases of a voxel, by z, y, channel and x, are given as integers: a word holds the two
    phases of x. `weight` is (out, in, z, y, x), `bias` a tuple.
    """
    width = (out.shape[3] // len(bias) + LANES - 1) // LANES * LANES
    rows = _strip_rows(out.shape[2], len(bias), width)
    strips = (out.shape[2] + rows - 1) // rows
    for number in numba.prange(out.shape[0] * strips):
        tile, first = number // strips, number % strips * rows
        # A function of its own: all together would take twice as long to compile.
        _compute_strip(words[tile], weight, bias, slope, out[tile], first, rows, width)


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _compute_strip(
    words: Any, weight: Any, bias: Any, slope: Any, out: Any, first: int, rows: int, width: int
) -> None:
    """All layers of `rows` rows of one tile, from `first` on."""
    last = min(first + rows, out.shape[1])
    held = (last - first + 2) * width
    layers = _aligned_zeros(3 * len(bias) * 3 * held).reshape((3, len(bias), 3, held))
    sums = _aligned_zeros(len(bias) * _ROWS * width).reshape((len(bias), _ROWS * width))
    row = np.empty(words.shape[2] - 1, words.dtype)
    values = row.view(out.dtype)
    for z in range(-1, out.shape[0]):
        after = layers[(z + 1) % 3]
        if z + 1 < out.shape[0]:
            _activate(after, words, (z + 1, first, last, width), slope, row, values)
        else:
            after[:] = 0
        if z >= 0:
            for y in range(first, last, _ROWS):
                results = out[z, y : min(y + _ROWS, last)]
                _convolve(layers, weight, bias, (z, y - first, width), sums, results)


@numba.njit(nogil=True, cache=True)
def _strip_rows(most: int, channels: int, width: int) -> int:
    """Rows of a strip: whole blocks of them, as many as the cache holds."""
    fitting = _STRIP_BYTES // (4 * 3 * 3 * channels * width) - 2
    return min(most, max(_ROWS, fitting // _ROWS * _ROWS))


@numba.njit(nogil=True, cache=True)
def _aligned_zeros(size: int) -> Any:
    """Zeros (float32) that begin on a cache line."""
    return aligned(np.zeros(size + LINE_BYTES, np.float32), size)


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _activate(layer: Any, words: Any, place: Any, slope: Any, row: Any, values: Any) -> None:
    """Fill `layer` (channel, shift, row * x) with what is above 0, and `slope` times the rest.

    `place` is z, the strip's first row and the one after its last, and the width of a row; a row
    more is filled on either side, if there is one. `row` is room for a row, `values` the same.
    """
    z, first, last, width = place
    coarse, num_channels, length = words[1 + z // 2], layer.shape[0], values.shape[0]
    for y in range(max(first - 1, 0), min(last + 1, 2 * (coarse.shape[0] - 1))):
        phases, start = coarse[1 + y // 2], (y - first + 1) * width
        for channel in range(num_channels):
            number = types.uintp((z % 2 * 2 + y % 2) * num_channels + channel)
            for x in range(row.shape[0]):
                row[x] = phases[x + 1, number]
            before = layer[channel, 0, start + 1 : start + length]
            here = layer[channel, 1, start : start + length]
            after = layer[channel, 2, start : start + length - 1]
            for x in range(length):
                value = load_float(values[x])
                here[x] = value if value >= 0 else slope * value
            for x in range(length - 1):
                before[x] = here[x]
            for x in range(length - 1):
                after[x] = here[x + 1]


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _convolve(layers: Any, weight: Any, bias: Any, place: Any, sums: Any, results: Any) -> None:
    """Some rows of results (row, x * channel) at `place`: z, row of the strip, and width."""
    z, y, width = place
    length = results.shape[0] * width
    for channel in range(len(bias)):
        sums[channel, :length] = bias[channel]
    for channel in range(len(bias)):
        for dz in range(3):
            layer = layers[(z + dz + 2) % 3, channel]
            for out in range(len(bias)):
                kernel = weight[out, channel, dz]
                _add_products(sums[out, :length], layer, kernel, y * width, width)
    for number in range(results.shape[0]):
        _store(results[number], sums, number * width, bias)


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _add_products(sums: Any, layer: Any, kernel: Any, start: int, width: int) -> None:
    """Add to one channel's sums what one layer (shift, row * x) gives, `kernel` being (y, x)."""
    k00, k01, k02 = kernel[0, 0], kernel[0, 1], kernel[0, 2]
    k10, k11, k12 = kernel[1, 0], kernel[1, 1], kernel[1, 2]
    k20, k21, k22 = kernel[2, 0], kernel[2, 1], kernel[2, 2]
    before, here, after = layer[0, start:], layer[1, start:], layer[2, start:]
    next_before, next_here, next_after = before[width:], here[width:], after[width:]
    last_before, last_here, last_after = before[2 * width :], here[2 * width :], after[2 * width :]
    for i in range(sums.shape[0]):
        first = sums[i] + k00 * before[i] + k01 * here[i] + k02 * after[i]
        second = k10 * next_before[i] + k11 * next_here[i] + k12 * next_after[i]
        third = k20 * last_before[i] + k21 * last_here[i] + k22 * last_after[i]
        sums[i] = first + (second + third)  # no product waits for more than two others


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _store(row: Any, sums: Any, start: int, bias: Any) -> None:
    """The sums of all channels into a row in which they alternate."""
    for x in range(row.shape[0] // len(bias)):
        for channel in range(len(bias)):
            value = sums[channel, types.uintp(start + x)]
            row[x * len(bias) + channel] = save_float(value, row[0])
