"""A leaning stack of slices (gantry tilt) made straight, by shifting every slice in its plane.

        as acquired            straight, wider by the drift
          ______                 __________
         /     /                |..|     |
        /     /                 |.|     .|
       /_____/                  |_____|__|     . air: the smallest value of the scan

Linear interpolation within slices; none between them. It is asked for, never done silently.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def straighten(
    voxels_czyx: NDArray[np.generic], affine_xyz: NDArray[np.float64]
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Voxels of the same type on a grid whose slices lie straight above each other.

    `affine_xyz` maps (x, y, z) to mm, its first two columns at a right angle; so does the one
    returned, all of whose columns are.
    """
    spacing_xy = np.linalg.norm(affine_xyz[:3, :2], axis=0)
    row, column = (affine_xyz[:3, :2] / spacing_xy).T
    normal, step = np.cross(row, column), affine_xyz[:3, 2]
    num_channels, num_slices, *shape_yx = voxels_czyx.shape
    drift_yx = np.array([step @ column, step @ row]) / spacing_xy[::-1]
    shifts_yx = np.arange(num_slices)[:, None] * drift_yx
    low = np.floor(np.minimum(shifts_yx[-1], 0)).astype(int)
    high = np.ceil(np.maximum(shifts_yx[-1], 0)).astype(int)
    straight = np.empty((num_channels, num_slices, *(shape_yx + high - low)), voxels_czyx.dtype)
    for channel, target in zip(voxels_czyx, straight, strict=True):
        for slice_yx, target_yx, shift in zip(channel, target, shifts_yx, strict=True):
            _shift(slice_yx, target_yx, low - shift, fill=float(channel.min()))
    affine = affine_xyz.copy()
    affine[:3, 2] = normal * (step @ normal)
    affine[:3, 3] += affine_xyz[:3, 0] * low[1] + affine_xyz[:3, 1] * low[0]
    return straight, affine


def _shift(
    source_yx: NDArray[np.generic],
    target_yx: NDArray[np.generic],
    offset: NDArray[np.float64],
    *,
    fill: float,
) -> None:
    """Write into `target_yx` what `source_yx` holds `offset` further; `fill` outside of it."""
    moved = ndimage.affine_transform(
        source_yx.astype(np.float64), np.eye(2), offset, target_yx.shape, order=1, cval=fill
    )
    target_yx[...] = np.rint(moved) if target_yx.dtype.kind in "iu" else moved
