"""Regridding: a Slab's finished logits, which lie on the model's grid, to labels on the scan's.

What was read out of an ordinary Slab is gone from it. Here the last plane stays, since the
next scan voxels lie between it and the planes to come (`BlockLayout.planes_kept`). Logits are
interpolated before the Head decides, as MONAI's `Invertd` and nnU-Net do, but a piece at a
time: classes times the scan's voxels never exist.
"""

from __future__ import annotations

import torch

from unet_batch.inference.head import Head, check_finite
from unet_batch.inference.slab import Slab
from unet_batch.models.resampling import largest_on_scan_grid, to_scan_grid
from unet_batch.planning.cost import MAX_SUMS_RESAMPLED
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.grid_map import GridMap


def finish_on_scan_grid(
    slab: Slab, head: Head, grid_map: GridMap, scan: Box, out_pzyx: torch.Tensor
) -> None:
    """Write the Head's planes of the scan voxels `scan` to `out_pzyx`, (planes, *scan.shape).

    All model voxels they are interpolated from must be finished and held. Raises BundleError
    where a logit is NaN or infinite.
    """
    for part in scan.split(_piece_shape(grid_map, scan, head)):
        held = grid_map.model_box(part)
        logits, out = slab.logits(held), out_pzyx[:, *part.relative_to(scan).slices]
        if head.is_argmax:
            check_finite(logits)
            out[0] = largest_on_scan_grid(logits, held, grid_map, part)
        else:
            out[:] = head.planes(to_scan_grid(logits, held, grid_map, part))


def _piece_shape(grid_map: GridMap, scan: Box, head: Head) -> Index:
    """Scan voxels to interpolate at once, for MAX_SUMS_RESAMPLED sums on the finer of the grids.

    Rows of the model's last axis stay whole as long as they fit, then its planes. Where only
    the largest class is wanted, planes and rows are never held on the scan's grid.
    """
    room, shape = MAX_SUMS_RESAMPLED / head.num_sums, list(scan.shape)
    for number, axis in reversed(list(enumerate(grid_map.axes))):
        is_blended = head.is_argmax and number < len(grid_map.axes) - 1
        held = 1 / axis.step if is_blended else max(1.0, 1 / axis.step)  # for each scan voxel
        length = max(1, min(shape[axis.scan_axis], int(room / held)))
        shape[axis.scan_axis] = length
        room /= length * held
    return tuple(shape)
