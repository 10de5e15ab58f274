"""Kernels: the loops over logits that decide the CPU's speed, compiled by numba.

Plain torch moves the same numbers through memory several times (a float copy of the logits,
a product, a sum, a class index of eight bytes). Here each logit is read once, in the type
and layout the network left it in, and each sum once:

    add       sums += weight * logits           one tile
    finish    index of the largest sum, and the sums set to zero for the next layer;
              of a tile that has no neighbour index of the largest logit

Arrays are (planes, z, y, row). Channels-first logits have a plane a class and rows of x;
channels-last ones have one plane and rows of x times class. bfloat16 travels as uint16.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from unet_batch.inference.floats import load_float

Floats = NDArray[np.float32]


@numba.njit(parallel=True, nogil=True, fastmath={"contract", "nsz"}, cache=True)
def add(
    sums: Any, logits: Any, bell_z: Any, bell_y: Any, bell_row: Any, floor: Any, spans: Any
) -> None:
    """Add weighted logits to sums; `spans` is (sums start, logits start, length) by z, y, row.

    A voxel's weight is the product of its bells, at least `floor`.
    """
    layers = spans[0, 2]
    into, out_of, length = spans[2]
    for number in numba.prange(sums.shape[0] * layers):
        plane, z = number // layers, number % layers
        for y in range(spans[1, 2]):
            weight = bell_z[spans[0, 1] + z] * bell_y[spans[1, 1] + y]
            # Slices: with offsets in the index the loop would not be vectorised.
            to = sums[plane, spans[0, 0] + z, spans[1, 0] + y, into : into + length]
            source = logits[plane, spans[0, 1] + z, spans[1, 1] + y, out_of : out_of + length]
            bell = bell_row[out_of : out_of + length]
            for i in range(length):
                scale = max(weight * bell[i], floor)
                to[i] += scale * load_float(source[i])


@numba.njit(parallel=True, nogil=True, cache=True)
def finish_channels_last(sums: Any, num_classes: int, labels: Any, spans: Any, clears: Any) -> int:
    """Class indices of sums, or logits, (1, z, y, x * class) into `labels`.

    `spans` is (sums start, labels start, length) by z, y, x in voxels; `clears` sets the sums to
    zero. Returns how many rows hold a NaN or infinite sum.
    """
    rows, length = spans[1, 2], spans[2, 2]
    broken = 0
    for number in numba.prange(spans[0, 2] * rows):
        z, y = number // rows, number % rows
        row = sums[0, spans[0, 0] + z, spans[1, 0] + y]
        out = labels[spans[0, 1] + z, spans[1, 1] + y]
        first = spans[2, 0] * num_classes
        total = types.float32(0)
        for x in range(length):
            at = first + x * num_classes
            best, index = load_float(row[at]), 0
            total += best
            for k in range(1, num_classes):
                value = load_float(row[at + k])
                total += value
                if value > best:
                    best, index = value, k
            out[spans[2, 1] + x] = index
        if clears:
            row[first : first + length * num_classes] = 0
        if not np.isfinite(total):
            broken += 1
    return broken


@numba.njit(parallel=True, nogil=True, cache=True)
def finish_channels_first(sums: Any, labels: Any, spans: Any, clears: Any) -> int:
    """The same of sums or logits (class, z, y, x)."""
    num_classes, rows, length = sums.shape[0], spans[1, 2], spans[2, 2]
    broken = 0
    for number in numba.prange(spans[0, 2] * rows):
        z, y = number // rows, number % rows
        first, to = spans[2, 0], spans[2, 1]
        out = labels[spans[0, 1] + z, spans[1, 1] + y]
        best = np.empty(length, np.float32)
        total = types.float32(0)
        for k in range(num_classes):
            row = sums[k, spans[0, 0] + z, spans[1, 0] + y]
            for x in range(length):
                value = load_float(row[first + x])
                total += value
                if k == 0:
                    best[x] = value
                    out[to + x] = 0
                elif value > best[x]:
                    best[x] = value
                    out[to + x] = k
            if clears:
                row[first : first + length] = 0
        if not np.isfinite(total):
            broken += 1
    return broken
