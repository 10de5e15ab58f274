"""Holes: what a mask encloses becomes part of it.

A hole is a component of all that is not the mask, and does not touch the volume's border.
Beyond the box around a mask there is no mask, so all that touches that box' border is
connected to the volume's: only the voxels in the box are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_batch.postprocessing.components import Numbering, Numbers
from unet_batch.postprocessing.masks import Mask, find_masks, members
from unet_batch.postprocessing.regions import Labels, Work
from unet_batch.tiling.box import Box, Index, bounding_box


def fill_holes(work: Work) -> None:
    """Write the labels with the holes of every mask filled, where they are background."""
    extents = _extents(work)
    fillings = [
        _plan_filling(work, values, extents[number])
        for number, values in enumerate(work.masks, start=1)
        if number in extents
    ]

    def fill(_: int, region: Box, labels: Labels) -> None:
        for filling in fillings:
            filling.fill(region, labels)

    work.rewrite(fill)


def _extents(work: Work) -> dict[int, Box]:
    """The box around each mask that occurs, over the whole volume."""
    found: dict[int, Box] = {}
    for region in work.regions:
        for mask in find_masks(work.source.read(region), work.masks):
            start = tuple(one.start for one in mask.slices)
            box = Box(start, tuple(one.stop for one in mask.slices)).shift(region.start)
            known = found.get(mask.number, box)
            found[mask.number] = bounding_box([known, box])
    return found


@dataclass(frozen=True, slots=True)
class _Filling:
    """The holes of one mask, all of which lies in `extent`.

    `places` finds a region's part of the walk; `values` has for every number of the walk the
    label that it is filled with, 0 where it is no hole.
    """

    extent: Box
    numbering: Numbering
    places: dict[Box, int]
    values: NDArray[np.uint16]

    def fill(self, region: Box, labels: Labels) -> None:
        """Fill what of the holes lies in `region`, where `labels` are background."""
        part = region & self.extent
        if not part:
            return
        own = self.values[self.numbering.part(self.places[part])]
        if not own.any():
            return
        numbers, _ = self.numbering.label(part)
        table = np.concatenate([np.zeros(1, np.uint16), own]).astype(labels.dtype)
        inside = labels[part.relative_to(region).slices]
        for plane, numbers_yx in zip(inside, numbers, strict=True):
            np.copyto(plane, table[numbers_yx], where=plane == 0)


def _plan_filling(work: Work, values: tuple[int, ...], extent: Box) -> _Filling:
    regions = [part for region in work.regions if (part := region & extent)]
    numbering = Numbering(regions, _outside(work, values), work.structure)
    axes = [axis for axis, length in enumerate(work.shape_zyx) if length > 1]
    is_open, contacts, first = [np.ones(1, np.bool_)], [np.empty((0, 3), np.int64)], 0
    for region, numbers, count in numbering.walk():
        is_open.append(
            _touches_border(numbers, count, region.relative_to(extent), extent.shape, axes)
        )
        if len(values) > 1:
            contacts.append(_contacts(work, values, region, numbers) + np.array([first, 0, 0]))
        first += count
    components, _ = numbering.joined()
    filled_with = np.full(components.max() + 1, values[0], np.uint16)
    _vote(np.concatenate(contacts), components, filled_with)
    filled_with[components[np.concatenate(is_open)]] = 0
    places = {region: number for number, region in enumerate(regions)}
    return _Filling(extent, numbering, places, filled_with[components])


def _outside(work: Work, values: Sequence[int]) -> Callable[[Box], Iterator[Mask]]:
    """All that is not in the mask of `values`, as a mask of its own."""

    def masks(region: Box) -> Iterator[Mask]:
        is_outside = members(work.source.read(region), [values]) == 0
        yield Mask(1, (slice(None),) * 3, is_outside)

    return masks


def _touches_border(
    numbers: Numbers, count: int, placed: Box, shape: Index, axes: Sequence[int]
) -> NDArray[np.bool_]:
    """Whether each number from 1 to `count` touches a border of `shape` along `axes`."""
    touches = np.zeros(count + 1, np.bool_)
    for axis in axes:
        if placed.start[axis] == 0:
            touches[numbers.take(0, axis)] = True
        if placed.stop[axis] == shape[axis]:
            touches[numbers.take(-1, axis)] = True
    return touches[1:]


def _contacts(
    work: Work, values: Sequence[int], region: Box, numbers: Numbers
) -> NDArray[np.int64]:
    """Rows (number, value, how many faces of the number's voxels touch voxels of that value)."""
    around = work.read_around(region, (1, 1, 1))
    wanted = members(around, [values]) > 0
    keys = []
    for axis in range(3):
        for offset in (0, 2):
            window = [slice(1, 1 + n) for n in region.shape]
            window[axis] = slice(offset, offset + region.shape[axis])
            both = wanted[tuple(window)] & (numbers > 0)
            keys.append(numbers[both].astype(np.int64) << 16 | around[tuple(window)][both])
    found, faces = np.unique(np.concatenate(keys), return_counts=True)
    return np.stack([found >> 16, found & 0xFFFF, faces], axis=1)


def _vote(
    contacts: NDArray[np.int64], components: NDArray[np.int32], filled_with: NDArray[np.uint16]
) -> None:
    """Have each component be filled with the value that most of its faces touch."""
    numbers, values, faces = contacts.T
    keys, where = np.unique(
        components[numbers].astype(np.int64) << 16 | values, return_inverse=True
    )
    votes = np.bincount(where, weights=faces, minlength=len(keys))
    # Later entries win: the most votes last, and of level ones the smallest value.
    order = np.lexsort((-(keys & 0xFFFF), votes))
    filled_with[keys[order] >> 16] = keys[order] & 0xFFFF
