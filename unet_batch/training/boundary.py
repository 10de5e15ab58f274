"""The U-Net paper's weight of voxels between two objects (Ronneberger et al. 2015, eq. 2).

    w(x) = 1 + w0 exp(-(d1 + d2)^2 / (2 sigma^2))

where d1 and d2 are the distances to the two objects nearest to x. It is computed of each patch
as it is read, not of a Volume beforehand: distances are then those of the bent and scaled
patch that the network sees, nothing as large as a Volume is stored, and the readers have the
time. The price is that an object outside the patch is not seen from within.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_batch.tiling.box import Box

_MARGIN_SIGMAS = 4
"""Beyond so many sigma from an object its voxels weigh less than w0 / 2900 more: exp(-8)."""


def boundary_weights(
    truth_zyx: NDArray[np.generic], *, w0: float, sigma: float
) -> NDArray[np.float32]:
    """The weight of each voxel of a patch of class indices, float32 of its shape; at least 1.

    An object is a connected part of one class that is not the background (0), corners
    counting as connected. Only voxels of the background weigh more: the gap to be kept open.
    """
    nearest = np.full((2, *truth_zyx.shape), np.inf, np.float32)
    margin = int(np.ceil(_MARGIN_SIGMAS * sigma))
    for box, is_object in _objects(truth_zyx, margin):
        part = nearest[(slice(None), *box.slices)]
        distance = ndimage.distance_transform_edt(~is_object).astype(np.float32)
        part[1] = np.minimum(part[1], np.maximum(part[0], distance))
        part[0] = np.minimum(part[0], distance)
    gap = np.square(nearest.sum(axis=0)) / np.float32(2 * sigma**2)
    weights: NDArray[np.float32] = 1 + np.float32(w0) * np.exp(-gap) * (truth_zyx == 0)
    return weights


def _objects(truth_zyx: NDArray[np.generic], margin: int) -> list[tuple[Box, NDArray[np.bool_]]]:
    """Each object's mask within its Box, widened by `margin` voxels as far as the patch goes."""
    whole = Box.from_shape(truth_zyx.shape)
    connected = np.ones((3,) * truth_zyx.ndim, bool)
    found = []
    for value in np.unique(truth_zyx[truth_zyx != 0]):
        numbers, _ = ndimage.label(truth_zyx == value, structure=connected)
        for number, slices in enumerate(ndimage.find_objects(numbers), start=1):
            start = tuple(one.start - margin for one in slices)
            stop = tuple(one.stop + margin for one in slices)
            box = Box(start, stop) & whole
            found.append((box, numbers[box.slices] == number))
    return found
