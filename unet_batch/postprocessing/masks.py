"""Masks: which voxels of some labels belong to which mask of a Step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_batch.postprocessing.regions import Labels

Slices = tuple[slice, ...]


class Mask(NamedTuple):
    """One mask, cut to the voxels around it.

    `number` counts from 1; `voxels` are those at `slices` of the labels it was found in.
    """

    number: int
    slices: Slices
    voxels: NDArray[np.bool_]


def members(labels: Labels, masks: Sequence[Sequence[int]]) -> NDArray[np.unsignedinteger]:
    """For every voxel the number of its mask, counted from 1; 0 where it is in none."""
    number_of: NDArray[np.unsignedinteger] = np.zeros(
        int(np.iinfo(labels.dtype).max) + 1, np.uint8 if len(masks) < 256 else np.uint16
    )
    for number, values in enumerate(masks, start=1):
        number_of[list(values)] = number
    numbers: NDArray[np.unsignedinteger] = number_of[labels]
    return numbers


def find_masks(labels: Labels, masks: Sequence[Sequence[int]]) -> Iterator[Mask]:
    """Those of `masks` that occur in `labels`, each in the smallest box around it."""
    numbers = members(labels, masks)
    for number, slices in enumerate(ndimage.find_objects(numbers, len(masks)), start=1):
        if slices is not None:
            yield Mask(number, slices, numbers[slices] == number)
