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

from unet_batch.inference.floats import load_float, magnitude, rank

MOST_UNROLLED = 14
"""Classes up to which a read-out is compiled for their number, in a second.

Microseconds of one core (Zen 4) for a tile of 40³, by a loop that takes one value after the other,
by the loop for any number of classes, and by the one for this number:

=======  ==================  =================
classes  bfloat16            float32
=======  ==================  =================
2         150,   248,   43    133,   254,   40
3         188,   354,   57    169,   362,   56
8         432,   353,  128    418,   343,  125
14        759,   470,  252    730,   461,  399
16        864,   445,  282    834,   428,  525
61       3363,  1402         3288,  1376
=======  ==================  =================
"""

INFINITE = np.uint32(0x7F800000)
"""The bits of infinity: those of a NaN are more, of any other positive number less."""

LEAST_KEY = np.int64(-(2**63))
CLASS_BITS = np.int64(2**32 - 1)


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


def finish_channels_last(
    sums: NDArray[Any],
    num_classes: int,
    labels: NDArray[Any],
    spans: NDArray[np.int64],
    *,
    clears: bool,
) -> int:
    """Class indices of sums, or logits, (1, z, y, x * class) into `labels`.

    `spans` is (sums start, labels start, length) by z, y, x in voxels; `clears` sets the sums to
    zero. Returns how many rows hold a NaN or infinite sum.
    """
    if num_classes > MOST_UNROLLED:
        return int(_finish_many(sums, num_classes, labels, spans, clears))
    # The length of a tuple is part of its type: the loop over classes is compiled for it.
    return int(_finish_few(sums, (0,) * num_classes, labels, spans, clears))


@numba.njit(parallel=True, nogil=True, cache=True)
def _finish_few(sums: Any, classes: Any, labels: Any, spans: Any, clears: Any) -> int:
    """The same, compiled for as many classes as `classes` has elements: voxels side by side."""
    length, num_classes = spans[2, 2], len(classes)
    broken = 0
    for number in numba.prange(spans[0, 2] * spans[1, 2]):
        row, out = _rows(sums[0], labels, spans, number, num_classes)
        largest = types.uint32(0)
        for x in range(length):
            at = x * num_classes
            best, index = load_float(row[at]), types.uint16(0)
            largest = max(largest, magnitude(best))
            for k in range(1, num_classes):
                value = load_float(row[at + k])
                largest = max(largest, magnitude(value))
                is_better = value > best
                best = value if is_better else best
                index = types.uint16(k) if is_better else index
            out[x] = index
        if clears:
            _clear(row)
        if largest >= INFINITE:
            broken += 1
    return broken


@numba.njit(parallel=True, nogil=True, cache=True)
def _finish_many(sums: Any, num_classes: Any, labels: Any, spans: Any, clears: Any) -> int:
    """The same of any number of classes: a voxel's classes side by side.

    The largest key is that of the largest sum, and of the lower class where two are equal.
    """
    length = spans[2, 2]
    broken = 0
    for number in numba.prange(spans[0, 2] * spans[1, 2]):
        row, out = _rows(sums[0], labels, spans, number, num_classes)
        largest = types.uint32(0)
        for x in range(length):
            voxel = row[x * num_classes : (x + 1) * num_classes]
            best = types.int64(LEAST_KEY)
            for k in range(num_classes):
                value = load_float(voxel[k])
                largest = max(largest, magnitude(value))
                key = types.int64(rank(value)) << types.int64(32)
                best = max(best, key | types.int64(num_classes - k))
            out[x] = num_classes - (best & CLASS_BITS)
        if clears:
            _clear(row)
        if largest >= INFINITE:
            broken += 1
    return broken


@numba.njit(parallel=True, nogil=True, cache=True)
def finish_channels_first(sums: Any, labels: Any, spans: Any, clears: Any) -> int:
    """The same of sums or logits (class, z, y, x)."""
    broken = 0
    for number in numba.prange(spans[0, 2] * spans[1, 2]):
        best = np.full(spans[2, 2], -np.inf, np.float32)
        largest = types.uint32(0)
        for k in range(sums.shape[0]):
            row, out = _rows(sums[k], labels, spans, number, 1)
            largest = max(largest, _keep_better(row, best, out, k))
            if clears:
                _clear(row)
        if largest >= INFINITE:
            broken += 1
    return broken


@numba.njit(cache=True)
def _keep_better(row: Any, best: Any, out: Any, k: Any) -> Any:
    """Let class `k` have the voxels where it is above the best so far; its largest magnitude."""
    largest = types.uint32(0)
    for x in range(len(best)):
        value = load_float(row[x])
        largest = max(largest, magnitude(value))
        is_better = (value > best[x]) | (k == 0)
        best[x] = value if is_better else best[x]
        out[x] = k if is_better else out[x]
    return largest


@numba.njit(cache=True)
def _clear(row: Any) -> None:
    """Zero a row; `row[:] = 0` in a parallel loop numba would take for a write nobody sees."""
    for i in range(len(row)):
        row[i] = 0


@numba.njit(inline="always")
def _rows(plane: Any, labels: Any, spans: Any, number: Any, per_voxel: Any) -> Any:
    """Row `number` of the spans, layer after layer, of sums and of labels."""
    z, y = number // spans[1, 2], number % spans[1, 2]
    first, to, length = spans[2]
    row = plane[spans[0, 0] + z, spans[1, 0] + y, first * per_voxel : (first + length) * per_voxel]
    return row, labels[spans[0, 1] + z, spans[1, 1] + y, to : to + length]
