"""Morphology: opening and closing, each region read with as many voxels around it as matter.

A voxel depends on those that `iterations` erosions and dilations reach, so a region is read
with a margin of twice as many, and computed alone. Every erosion or dilation shrinks what is
known by a voxel on each side, until just the region is left:

    |<-- 2n -->|<------- region ------->|<-- 2n -->|
               after n dilations and n erosions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_batch.postprocessing.masks import Slices, find_masks, members
from unet_batch.postprocessing.regions import Labels, Structure, Work
from unet_batch.tiling.box import Box, Index

Voxels = NDArray[np.bool_]
Operation = Callable[[Voxels, Structure], Voxels]

GATHERED_VOXELS = 2**22
"""Neighbours that are looked at in one go."""


def erode(voxels: Voxels, structure: Structure) -> Voxels:
    """Voxels all of whose neighbours are set; smaller by the structure's reach on every side."""
    return _combine(voxels, structure, np.logical_and)


def dilate(voxels: Voxels, structure: Structure) -> Voxels:
    """Voxels any of whose neighbours is set; smaller by the structure's reach on every side."""
    return _combine(voxels, structure, np.logical_or)


def open_masks(work: Work, iterations: int) -> None:
    """Write the labels with every mask eroded, then dilated; what goes becomes background."""

    def change(_: int, region: Box, labels: Labels) -> None:
        for values, slices, stays, _around in _mended(work, region, iterations, (erode, dilate)):
            inside = labels[slices]
            inside[(members(inside, [values]) > 0) & ~stays] = 0

    work.rewrite(change)


def close_masks(work: Work, iterations: int) -> None:
    """Write the labels with every mask dilated, then eroded, where they are background."""
    offsets = np.argwhere(ndimage.iterate_structure(work.structure, iterations)) - iterations

    def change(_: int, region: Box, labels: Labels) -> None:
        for values, slices, closed, around in _mended(work, region, iterations, (dilate, erode)):
            inside = labels[slices]
            added = closed & (inside == 0)
            if len(values) == 1:
                inside[added] = values[0]
            elif added.any():
                margin = np.subtract(around.shape, region.shape) // 2
                corner = [one.start for one in slices] + margin
                inside[added] = _vote(np.argwhere(added) + corner, offsets, around, values)

    work.rewrite(change)


def _mended(
    work: Work, region: Box, iterations: int, operations: Sequence[Operation]
) -> Iterator[tuple[tuple[int, ...], Slices, Voxels, Labels]]:
    """Each mask after the operations: its values, where in the region, voxels, labels around."""
    margin = tuple(2 * iterations * reach for reach in _reach(work.structure))
    around = work.read_around(region, margin)
    inner = Box.from_shape(region.shape).shift(margin)
    for number, slices, voxels in find_masks(around, work.masks):
        box = Box(tuple(s.start for s in slices), tuple(s.stop for s in slices))
        part = box & inner
        if not part:
            continue
        mended = np.pad(voxels, [(m, m) for m in margin])
        for operation in operations:
            for _ in range(iterations):
                mended = operation(mended, work.structure)
        here = mended[part.relative_to(box).slices]
        yield work.masks[number - 1], part.relative_to(inner).slices, here, around


def _combine(voxels: Voxels, structure: Structure, ufunc: np.ufunc) -> Voxels:
    lengths = [n - 2 * r for n, r in zip(voxels.shape, _reach(structure), strict=True)]
    first, *others = (
        voxels[tuple(slice(a, a + n) for a, n in zip(offset, lengths, strict=True))]
        for offset in np.argwhere(structure) + _reach(structure) - 1
    )
    result = first.copy()
    for shifted in others:
        ufunc(result, shifted, out=result)
    return result


def _reach(structure: Structure) -> Index:
    """Voxels along each axis to the furthest neighbour: 0 or 1."""
    return tuple(int(structure.take(0, axis).any()) for axis in range(3))


def _vote(
    places: NDArray[np.intp], offsets: NDArray[np.intp], around: Labels, values: Sequence[int]
) -> Labels:
    """For each place the value of `values` that most voxels at `offsets` from it have."""
    ranked = sorted(values)
    part = max(1, GATHERED_VOXELS // len(offsets))
    winners = []
    for begin in range(0, len(places), part):
        z, y, x = (places[begin : begin + part, None] + offsets).transpose(2, 0, 1)
        near = around[z, y, x]
        votes = np.stack([np.count_nonzero(near == value, axis=1) for value in ranked])
        winners.append(votes.argmax(axis=0))
    chosen: Labels = np.array(ranked, around.dtype)[np.concatenate(winners)]
    return chosen
