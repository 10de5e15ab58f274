"""Winograd's kernel: a convolution 3 wide with fewer than half of the products, by numba.

Winograd's F(2 x 2, 3 x 3) (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
Networks", equation 8) computes patches of 2 x 2 results in (y, x) from 4 x 4 values each:

    results = A' ((G weight G') * (B' values B)) A

The 16 products in the middle are, over channels and the taps of z, matrix products; 36 were needed
for the same results directly. B' and A' only add and subtract. What they are given and give is
float32; what is multiplied is rounded to bfloat16.

    values --B'--> moved (16, patches, c) --matrix product--> sums (16, patches, 32) --A'--> out

A strip, which is some rows of patches, is swept along z, some planes at a time, so that all of the
second and third array stays in a core's cache: nothing but values and results passes through
memory. What is said of sizes in bytes is of bfloat16, which travels as uint16.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from unet_batch.inference.rewriting.matrix_kernel import COLUMNS, ROWS, multiply_rows
from unet_batch.inference.vectors import (
    LANES,
    LINE_BYTES,
    activated,
    aligned,
    load_bfloats,
    load_floats,
    save_bfloats,
)

POINTS = 16
"""Products for each patch, channel and tap."""

_SCRATCH_BYTES = 3 * 2**18
"""What the arrays of a strip may take: three quarters of a core's second cache."""

_FEWEST = 48
"""Patches that are multiplied with each weight that is read, if there are as many."""

_WORD = types.uintp
_MODE = {"contract", "nsz"}


@numba.njit(parallel=True, nogil=True, cache=True)
def convolve(parts: Any, weight: Any, bias: Any, slope: Any, out: Any) -> None:
    """Results `out` (n, z, y, x, channel) of values, whose channels come in parts.

    Each part is (n, z, y, x, c), padded with zeros; `weight` (channels / 32, 16, taps of z, c / 2,
    32, 2) as `winograd.moved_weight` gives it; `bias` (channels) float32. Negative results are
    multiplied by `slope`.
    """
    rows, columns = (out.shape[2] + 1) // 2, (out.shape[3] + 1) // 2
    height = min(rows, (ROWS + columns - 1) // columns)
    strips = (rows + height - 1) // height
    for number in numba.prange(out.shape[0] * strips):
        tile, first = number // strips, number % strips * height
        _sweep(parts, tile, weight, bias, slope, out[tile], first, min(first + height, rows))


@numba.njit(nogil=True, cache=True)
def _sweep(
    parts: Any, tile: int, weight: Any, bias: Any, slope: Any, out: Any, first: int, last: int
) -> None:
    """All results of the rows of patches from `first` to before `last` of one tile."""
    depth, channels, taps = out.shape[0], 2 * weight.shape[3], weight.shape[2]
    columns = (out.shape[2] + 1) // 2
    patches, border = (last - first) * columns, taps // 2
    planes = _planes(depth, patches, channels, border)
    size = POINTS * (planes + 2 * border) * patches * channels
    moved = aligned(np.empty(size + ROWS * channels + LINE_BYTES, np.uint16), size)
    moved = moved.reshape((POINTS, (planes + 2 * border) * patches, channels))
    room = (planes * patches + ROWS - 1) // ROWS * ROWS
    size = POINTS * room * COLUMNS
    sums = aligned(np.empty(size + LINE_BYTES, np.float32), size).reshape((POINTS, room, COLUMNS))
    patch = np.empty(POINTS * channels, np.uint16)
    for z in range(0, depth, planes):
        count = min(planes, depth - z)
        ready = 0
        if z > 0:  # the last planes of the step before are the first of this one
            ready = 2 * border
            for point in range(POINTS):
                _shift(moved[point], planes * patches, ready * patches)
        for plane in range(ready, count + 2 * border):
            place = (z - border + plane, first, last, plane * patches)
            _move_plane(parts, tile, place, moved, patch)
        for block in range(weight.shape[0]):
            _multiply(moved, weight[block], sums, count * patches, patches)
            for plane in range(count):
                place = (z + plane, first, last, plane * patches)
                _finish_plane(sums, bias, block * COLUMNS, slope, out, place, patch)


@numba.njit(nogil=True, cache=True)
def _shift(rows: Any, start: int, count: int) -> None:
    """Copy `count` rows from `start` on to the beginning."""
    for number in range(count):
        for k in range(rows.shape[1]):
            rows[number, k] = rows[start + number, k]


@numba.njit(nogil=True, cache=True)
def _planes(depth: int, patches: int, channels: int, border: int) -> int:
    """Planes of a step: as many as the cache holds, but enough for `_FEWEST` patches."""
    of_values, of_sums = POINTS * patches * channels * 2, POINTS * patches * COLUMNS * 4
    fitting = (_SCRATCH_BYTES - 2 * border * of_values) // (of_values + of_sums)
    return min(depth, max(fitting, (_FEWEST + patches - 1) // patches))


@numba.njit(nogil=True, cache=True)
def _move_plane(parts: Any, tile: int, place: Any, moved: Any, patch: Any) -> None:
    """Fill what a plane of values gives, all parts, in `moved` (16, patches, c).

    `place` is its z, the rows of patches, and its first patch in `moved`; outside the tile all is
    zero. `patch` is room for one.
    """
    z, first, last, start = place
    columns = (parts[0].shape[3] + 1) // 2
    if z < 0 or z >= parts[0].shape[1]:
        for point in range(POINTS):
            moved[point, start : start + (last - first) * columns] = 0
        return
    for row in range(first, last):
        channel = 0
        for part in parts:
            here = moved[:, start + (row - first) * columns :, channel:]
            _move_row(part[tile, z], row, columns, here, patch)
            channel += part.shape[4]


@numba.njit(nogil=True, cache=True)
def _move_row(plane: Any, row: int, columns: int, moved: Any, patch: Any) -> None:
    """Fill what one row of patches of a plane (y, x, c) gives in `moved` (16, patches, c)."""
    height, width, channels = plane.shape
    into, point, step = moved.ctypes.data, moved.strides[0], moved.strides[1]
    top = 2 * row - 1
    for column in range(columns):
        left, here = 2 * column - 1, into + column * step
        if top >= 0 and left >= 0 and top + 4 <= height and left + 4 <= width:
            corner, line = plane.ctypes.data + (top * width + left) * channels * 2, width
        else:
            corner, line = patch.ctypes.data, 4
            _take_patch(plane, top, left, patch[: POINTS * channels].reshape((4, 4, channels)))
        for k in range(0, 2 * channels, 2 * LANES):
            _move_patch(corner + k, line * channels * 2, channels * 2, here + k, point)


@numba.njit(nogil=True, cache=True)
def _take_patch(plane: Any, top: int, left: int, patch: Any) -> None:
    """Copy a patch (4, 4, c) of a plane (y, x, c), with zeros for what is outside."""
    for y in range(4):
        for x in range(4):
            is_inside = 0 <= top + y < plane.shape[0] and 0 <= left + x < plane.shape[1]
            for k in range(plane.shape[2]):  # assigning rows would check shapes, at great length
                patch[y, x, k] = plane[top + y, left + x, k] if is_inside else 0


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _move_patch(corner: Any, line: Any, pixel: Any, into: Any, point: Any) -> None:
    """B' values B for sixteen channels of a patch; all are addresses and steps in bytes."""
    a0, a1, a2, a3 = _load_line(corner, pixel)
    b0, b1, b2, b3 = _load_line(corner + line, pixel)
    c0, c1, c2, c3 = _load_line(corner + 2 * line, pixel)
    d0, d1, d2, d3 = _load_line(corner + 3 * line, pixel)
    _move_line(a0 - c0, a1 - c1, a2 - c2, a3 - c3, into, point)
    _move_line(b0 + c0, b1 + c1, b2 + c2, b3 + c3, into + 4 * point, point)
    _move_line(c0 - b0, c1 - b1, c2 - b2, c3 - b3, into + 8 * point, point)
    _move_line(b0 - d0, b1 - d1, b2 - d2, b3 - d3, into + 12 * point, point)


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _load_line(start: Any, pixel: Any) -> Any:
    """Four values of sixteen channels, `pixel` bytes apart."""
    return (
        load_bfloats(_WORD(start)),
        load_bfloats(_WORD(start + pixel)),
        load_bfloats(_WORD(start + 2 * pixel)),
        load_bfloats(_WORD(start + 3 * pixel)),
    )


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _move_line(a: Any, b: Any, c: Any, d: Any, into: Any, point: Any) -> None:
    """Write what B makes of a line, `point` bytes apart."""
    save_bfloats(_WORD(into), a - c)
    save_bfloats(_WORD(into + point), b + c)
    save_bfloats(_WORD(into + 2 * point), c - b)
    save_bfloats(_WORD(into + 3 * point), b - d)


@numba.njit(nogil=True, cache=True)
def _multiply(moved: Any, weight: Any, sums: Any, count: int, patches: int) -> None:
    """The sums (16, patch, 32) of `count` patches, from z to z `patches` apart in `moved`."""
    taps, pairs, pixel = weight.shape[1], weight.shape[2], moved.strides[1]
    for point in range(POINTS):
        values, weights, into = moved[point], weight[point].ctypes.data, sums[point]
        for row in range(0, count, ROWS):
            multiply_rows(
                _WORD(values.ctypes.data + row * pixel),
                _WORD(pixel),
                _WORD(taps),
                _WORD(patches * pixel),
                _WORD(pairs),
                _WORD(weights),
                _WORD(into.ctypes.data + row * into.strides[0]),
            )


@numba.njit(nogil=True, cache=True)
def _finish_plane(
    sums: Any, bias: Any, channel: int, slope: Any, out: Any, place: Any, patch: Any
) -> None:
    """32 channels of `out` (z, y, x, channel), from `channel` on, of the patches of a plane.

    `place` is its z, the rows of patches, and its first patch in `sums`. `patch` is room for one.
    """
    z, first, last, start = place
    _, height, width, _ = out.shape
    columns = (width + 1) // 2
    point, step, pixel, line = sums.strides[0], sums.strides[1], out.strides[2], out.strides[1]
    spare = patch[: 4 * COLUMNS].reshape((2, 2, COLUMNS))
    for row in range(first, last):
        for column in range(columns):
            number = start + (row - first) * columns + column
            here, y, x = sums.ctypes.data + number * step, 2 * row, 2 * column
            biases = bias.ctypes.data + 4 * channel
            if y + 1 < height and x + 1 < width:
                into = out.ctypes.data + z * out.strides[0] + y * line + x * pixel + 2 * channel
                _finish_patch(here, point, biases, slope, into, line, pixel)
            else:
                into = spare.ctypes.data
                _finish_patch(here, point, biases, slope, into, 4 * COLUMNS, 2 * COLUMNS)
                for dy in range(min(2, height - y)):
                    for dx in range(min(2, width - x)):
                        for k in range(COLUMNS):
                            out[z, y + dy, x + dx, channel + k] = spare[dy, dx, k]


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _finish_patch(
    sums: Any, point: Any, bias: Any, slope: Any, into: Any, line: Any, pixel: Any
) -> None:
    """A' sums A for the 32 channels of a patch; all but `slope` are addresses and steps."""
    for half in range(2):
        here, to = sums + 4 * LANES * half, into + 2 * LANES * half
        shift = load_floats(_WORD(bias + 4 * LANES * half))
        a0, a1, a2, a3 = _load_sums(here, point)
        b0, b1, b2, b3 = _load_sums(here + 4 * point, point)
        c0, c1, c2, c3 = _load_sums(here + 8 * point, point)
        d0, d1, d2, d3 = _load_sums(here + 12 * point, point)
        up = (a0 + b0 + c0, a1 + b1 + c1, a2 + b2 + c2, a3 + b3 + c3)
        down = (b0 - c0 - d0, b1 - c1 - d1, b2 - c2 - d2, b3 - c3 - d3)
        _finish_line(up, shift, slope, to, pixel)
        _finish_line(down, shift, slope, to + line, pixel)


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _load_sums(start: Any, point: Any) -> Any:
    """Four sums of sixteen channels, `point` bytes apart."""
    return (
        load_floats(_WORD(start)),
        load_floats(_WORD(start + point)),
        load_floats(_WORD(start + 2 * point)),
        load_floats(_WORD(start + 3 * point)),
    )


@numba.njit(nogil=True, fastmath=_MODE, cache=True)
def _finish_line(four: Any, shift: Any, slope: Any, into: Any, pixel: Any) -> None:
    """Write the two results that A makes of a line, `pixel` bytes apart."""
    a, b, c, d = four
    save_bfloats(_WORD(into), activated(a + b + c + shift, slope))
    save_bfloats(_WORD(into + pixel), activated(b - c - d + shift, slope))
