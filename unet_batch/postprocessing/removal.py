"""Removal: connected components that are not the largest, or too small, become background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_batch.postprocessing.components import Numbering, Numbers
from unet_batch.postprocessing.masks import find_masks
from unet_batch.postprocessing.regions import Labels, Work
from unet_batch.tiling.box import Box, Index

PART_VOXELS = 2**21
"""Voxels that are counted at once: `bincount` makes eight bytes of each."""


@dataclass(frozen=True, slots=True)
class Components:
    """The components of all masks of a volume, one entry each.

    `sizes` in voxels; `firsts` the place in C order of the first voxel; `owners` the mask.
    """

    owners: NDArray[np.uint16]
    sizes: NDArray[np.int64]
    firsts: NDArray[np.int64]


Choice = Callable[[Components], NDArray[np.bool_]]
"""Which components stay."""


def keep_components(work: Work, choose: Choice) -> None:
    """Write the labels without the components that `choose` does not keep."""
    numbering = Numbering(
        work.regions,
        lambda region: find_masks(work.source.read(region), work.masks),
        work.structure,
    )
    components, indices = _survey(numbering, work.shape_zyx)
    goes = ~choose(components)[indices]

    def erase(number: int, region: Box, labels: Labels) -> None:
        own = goes[numbering.part(number)]
        if not own.any():
            return
        numbers, _ = numbering.label(region)
        table = np.concatenate([np.zeros(1, np.bool_), own])
        for plane, numbers_yx in zip(labels, numbers, strict=True):
            plane[table[numbers_yx]] = 0

    work.rewrite(erase)


def largest(components: Components) -> NDArray[np.bool_]:
    """The largest of each mask; of several equally large ones that which begins first."""
    order = np.lexsort((components.firsts, -components.sizes, components.owners))
    _, positions = np.unique(components.owners[order], return_index=True)
    stays = np.zeros(len(order), np.bool_)
    stays[order[positions]] = True
    return stays


def _survey(numbering: Numbering, shape: Index) -> tuple[Components, NDArray[np.int32]]:
    """All components, and for every number of the walk its place among them."""
    sizes, firsts = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    for region, numbers, count in numbering.walk():
        sizes.append(count_voxels(numbers, count)[1:])
        firsts.append(_first_voxels(numbers, count, region, shape))
    indices, owners = numbering.joined()
    num_components = int(indices.max()) + 1
    components = Components(
        np.zeros(num_components, np.uint16),
        np.zeros(num_components, np.int64),
        np.full(num_components, np.iinfo(np.int64).max),
    )
    components.owners[indices] = owners
    np.add.at(components.sizes, indices, np.concatenate(sizes))
    np.minimum.at(components.firsts, indices, np.concatenate(firsts))
    return components, indices


def count_voxels(numbers: Numbers, count: int) -> NDArray[np.int64]:
    """Voxels of each number from 0 to `count`."""
    flat, voxels = numbers.reshape(-1), np.zeros(count + 1, np.int64)
    part = max(PART_VOXELS, count)
    for begin in range(0, len(flat), part):
        voxels += np.bincount(flat[begin : begin + part], minlength=count + 1)
    return voxels


def _first_voxels(numbers: Numbers, count: int, region: Box, shape: Index) -> NDArray[np.int64]:
    """Place in C order of the volume of the first voxel of each number from 1 to `count`."""
    first = np.zeros(count + 1, np.int64)
    _, height, width = shape
    z0, y0, x0 = region.start
    for z, plane in reversed(list(enumerate(numbers))):
        y, x = np.nonzero(plane)
        places = ((z0 + z) * height + y0 + y) * width + x0 + x
        # Of several values for one entry NumPy keeps the last: here the first in C order.
        first[plane[y, x][::-1]] = places[::-1]
    return first[1:]
