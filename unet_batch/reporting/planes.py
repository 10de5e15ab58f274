"""Which voxels to look at: anatomical planes of any affine, and the slices that show the mask.

Pictures follow the radiological convention, whatever the order of the stored axes:

        axial             coronal            sagittal
          A                  S                  S
      R ◯◯◯◯ L           R ◯◯◯◯ L           A ◯◯◯◯ P
          P                  I                  I
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from unet_batch.formats.scan import Affine, spacing_of

MAX_SLICE_VOXELS = 2048
"""Longest side of a slice in voxels; beyond it every n-th is read (pictures are far smaller)."""

_VIEWS = (("axial", 2, (1, 0)), ("coronal", 1, (2, 0)), ("sagittal", 0, (2, 1)))
"""Name, RAS axis that the plane cuts, and RAS axes along the picture's rows and columns."""

_POSITIVE, _NEGATIVE = "RAS", "LPI"


@dataclass(frozen=True, slots=True)
class Plane:
    """An anatomical plane of one scan: which voxel axes its picture shows, and how.

    `axis` is the voxel axis (0 z, 1 y, 2 x) the plane cuts; rows of the picture run down
    along `row_axis`, columns to the right along `column_axis`, each reversed where it is
    flipped. Letters name the patient's side at each edge; `pixel_mm` is (row, column).
    """

    name: str
    axis: int
    row_axis: int
    column_axis: int
    is_row_flipped: bool
    is_column_flipped: bool
    top: str
    bottom: str
    left: str
    right: str
    pixel_mm: tuple[float, float]

    def cut(self, volume_zyx: da.Array, position: int) -> NDArray[np.generic]:
        """The picture's voxels (rows, columns) at `position`; reads only their chunks."""
        index: list[int | slice] = [slice(None, None, step_of(n)) for n in volume_zyx.shape]
        index[self.axis] = position
        lazy = volume_zyx[tuple(index)]
        voxels = np.asarray(lazy.compute(scheduler="synchronous"))
        if self.row_axis > self.column_axis:
            voxels = voxels.T
        return voxels[:: -1 if self.is_row_flipped else 1, :: -1 if self.is_column_flipped else 1]

    def size_mm(self, shape_zyx: Sequence[int]) -> tuple[float, float]:
        """Height and width of the picture in millimetres."""
        rows, columns = shape_zyx[self.row_axis], shape_zyx[self.column_axis]
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def planes_of(affine: Affine, shape_zyx: Sequence[int]) -> tuple[Plane, ...]:
    """Axial, coronal and sagittal planes, without those that are but one voxel thin.

    `affine` maps (z, y, x, 1) to RAS+ mm; an oblique scan is shown on its own grid and named
    by the closest anatomical axes.
    """
    world_of = _closest_world_axes(affine)
    voxel_of = {world: voxel for voxel, world in enumerate(world_of)}
    planes = []
    for name, cut, worlds in _VIEWS:
        row, column = voxel_of[worlds[0]], voxel_of[worlds[1]]
        if min(shape_zyx[row], shape_zyx[column]) > 1:
            planes.append(_plane(name, voxel_of[cut], (row, column), worlds, affine))
    return tuple(planes)


def fullest_slices(mask_zyx: da.Array, truth_zyx: da.Array | None = None) -> tuple[int, int, int]:
    """For each axis the slice in which mask and truth together cover most voxels.

    Ties go to the middle one, so that a solid block is cut through its centre; the middle of
    the volume where both are empty. One chunk at a time is in memory.
    """
    profiles = [np.zeros(n, np.int64) for n in mask_zyx.shape]
    for region in _chunk_regions(mask_zyx):
        covered = _read(mask_zyx, region) != 0
        if truth_zyx is not None:
            covered |= _read(truth_zyx, region) != 0
        for axis, profile in enumerate(profiles):
            others = tuple(a for a in range(3) if a != axis)
            profile[region[axis]] += np.count_nonzero(covered, axis=others)
    z, y, x = (_middle_maximum(profile) for profile in profiles)
    return z, y, x


def step_of(num_voxels: int) -> int:
    """Every how many voxels an axis of `num_voxels` is read for a picture."""
    return -(-num_voxels // MAX_SLICE_VOXELS)


def _plane(
    name: str, axis: int, voxels: tuple[int, int], worlds: tuple[int, int], affine: Affine
) -> Plane:
    spacing = spacing_of(affine)
    # Rows run towards P or I, columns towards L or P: against the RAS+ axes.
    flips = [bool(affine[w, v] > 0) for w, v in zip(worlds, voxels, strict=True)]
    return Plane(
        name=name,
        axis=axis,
        row_axis=voxels[0],
        column_axis=voxels[1],
        is_row_flipped=flips[0],
        is_column_flipped=flips[1],
        top=_POSITIVE[worlds[0]],
        bottom=_NEGATIVE[worlds[0]],
        left=_POSITIVE[worlds[1]],
        right=_NEGATIVE[worlds[1]],
        pixel_mm=(spacing[voxels[0]], spacing[voxels[1]]),
    )


def _closest_world_axes(affine: Affine) -> tuple[int, ...]:
    """The RAS axis (0, 1, 2) closest to each voxel axis, each used once."""
    directions = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return max(
        permutations(range(3)),
        key=lambda worlds: sum(float(directions[w, v]) for v, w in enumerate(worlds)),
    )


def _chunk_regions(array: da.Array) -> list[tuple[slice, ...]]:
    edges = [np.cumsum((0, *sizes)).tolist() for sizes in array.chunks]
    return [
        tuple(slice(edges[a][k], edges[a][k + 1]) for a, k in enumerate(index))
        for index in np.ndindex(*array.numblocks)
    ]


def _read(array: da.Array, region: tuple[slice, ...]) -> NDArray[np.generic]:
    return np.asarray(array[region].compute(scheduler="synchronous"))


def _middle_maximum(profile: NDArray[np.int64]) -> int:
    best = np.flatnonzero(profile == profile.max())
    return int(best[len(best) // 2])
