"""Placement: where a patch lies in a Volume; turned, scaled, mirrored and bent in one lookup.

Rotation, scaling, mirroring, bending, cropping and padding are one interpolation: the patch's
voxels are looked up in the Volume, so that nothing is resampled twice and only voxels that
land in the patch are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from monai.transforms.utils import create_rotate
from numpy.typing import NDArray

from unet_batch.planning.specs.recipe import AugmentationSpec
from unet_batch.training.augmentation.lookup import look_up

Matrix = NDArray[np.float64]
Generator = np.random.Generator

_AXES = ("z", "y", "x")
_MARGIN = 1 / 3
"""Of a patch: its corners reach as far out when it is turned by 15 degrees and 1.15 as large."""

_NO_MOVES = np.empty((0, 0, 0, 3), np.float32)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a patch lies in an array.

    Attributes
    ----------
    matrix: maps offsets from the patch's centre to offsets in the array (zyx voxels).
    centre_zyx: counts voxel edges, so that voxel k spans k to k + 1.
    roi_zyx: shape of the patch.
    moves: how far each voxel is looked up from there, float32 (z, y, x, 3) in voxels of the
        array along z, y and x; None: nowhere else.
    """

    matrix: Matrix
    centre_zyx: NDArray[np.float64]
    roi_zyx: tuple[int, ...]
    moves: torch.Tensor | None = None

    @property
    def is_straight(self) -> bool:
        """Whether the patch is cut out as it is, or mirrored."""
        return self.moves is None and np.array_equal(np.abs(self.matrix), np.eye(3))


def draw_matrix(
    spec: AugmentationSpec,
    spacing_mm: Sequence[float],
    rng: Generator,
    *,
    is_planar: bool = False,
) -> Matrix:
    """A random 3x3 map from offsets in the patch to offsets in the Volume, both in voxels (zyx).

    Rotation happens in millimetres, so that anisotropic voxels are not sheared. Where
    `is_planar` is set, z is left alone.
    """
    matrix = np.eye(3)
    if rng.random() < spec.affine:
        angles = np.radians(rng.uniform(-spec.rotation_deg, spec.rotation_deg, 3))
        bound = math.log1p(spec.scale)
        sizes = np.exp(rng.uniform(-bound, bound, 3))
        if is_planar:
            angles, sizes[0] = np.array([angles[0], 0.0, 0.0]), 1.0
        spacing = np.diag(np.asarray(spacing_mm, dtype=np.float64))
        rotation = np.asarray(create_rotate(3, tuple(angles)))[:3, :3]
        matrix = np.linalg.inv(spacing) @ rotation @ spacing @ np.diag(sizes)
    for axis in spec.flip:
        if rng.random() < 0.5:
            matrix[:, _AXES.index(axis)] *= -1
    return matrix


def draw_moves(
    spec: AugmentationSpec,
    spacing_mm: Sequence[float],
    roi_zyx: Sequence[int],
    rng: Generator,
    *,
    is_planar: bool = False,
) -> torch.Tensor | None:
    """A smooth random field that bends a patch, as `Placement.moves`; mostly None.

    Points `elastic_spacing` voxels apart are moved at random and a cubic B-spline is drawn
    through their moves (free-form deformation, Rueckert et al. 1999, eq. 1), scaled so that
    a voxel at a point has the deviation `elastic_sigma`. Moves are as long in millimetres
    along every axis: `elastic_sigma` counts voxels of the finest one. z stays where
    `is_planar`.
    """
    if rng.random() >= spec.elastic:
        return None
    bases = [_spline_basis(n, spec.elastic_spacing) for n in roi_zyx]
    points = rng.standard_normal((3, *(basis.shape[1] for basis in bases)), dtype=np.float32)
    np.clip(points, -2, 2, out=points)
    # The squares of a B-spline's weights at a knot, 1/6, 4/6 and 1/6, add up to a half an axis.
    smoothing = 2.0 ** (sum(n > 1 for n in roi_zyx) / 2)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    sizes = spec.elastic_sigma * smoothing * spacing[1 if is_planar else 0 :].min() / spacing
    if is_planar:
        sizes[0] = 0.0
    points *= sizes.astype(np.float32)[:, None, None, None]
    moves = torch.from_numpy(points)
    for basis in bases:  # z, y and x in turn: the first axis is drawn out and becomes the last
        moves = torch.tensordot(moves, torch.from_numpy(basis), dims=([1], [1]))
    return moves.permute(1, 2, 3, 0).contiguous()


def reach(
    matrix: Matrix, roi_zyx: Sequence[int], moves: torch.Tensor | None = None
) -> NDArray[np.float64]:
    """How far from its centre a patch of `roi_zyx` looks into the Volume, in voxels (zyx)."""
    extent: NDArray[np.float64] = np.abs(matrix) @ ((np.asarray(roi_zyx) - 1) / 2) + 0.5
    if moves is not None:
        extent = extent + moves.abs().amax(dim=(0, 1, 2)).numpy()
    return extent


def warp(
    image_czyx: torch.Tensor, truth_zyx: torch.Tensor, place: Placement
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch that lies at `place` in an image and its truth; 0 outside, as at inference.

    The image is looked up linearly, the truth at the nearest voxel. Where the patch is turned,
    scaled or bent, both go on beyond the border as they are there, for a third of the patch: no
    scan has dark wedges at its corners. Returns float32 (c, *place.roi_zyx), and
    (1, *place.roi_zyx) of the truth's type.
    """
    if not place.is_straight:
        margin = np.ceil(np.array(place.roi_zyx) * _MARGIN).astype(int)
        image_czyx, truth_zyx = _continued(image_czyx, margin), _continued(truth_zyx, margin)
        place = replace(place, centre_zyx=place.centre_zyx + margin)
    patch = np.empty((len(image_czyx), *place.roi_zyx), np.float32)
    truth = truth_zyx.numpy()
    mask = np.empty(place.roi_zyx, truth.dtype)
    middle = (np.array(place.roi_zyx) - 1) / 2
    look_up(
        image_czyx.contiguous().numpy(),
        truth,
        place.centre_zyx - 0.5 - place.matrix @ middle,
        np.ascontiguousarray(place.matrix.T),
        _NO_MOVES if place.moves is None else place.moves.numpy(),
        patch,
        mask,
    )
    return torch.from_numpy(patch), torch.from_numpy(mask)[None]


def _continued(values: torch.Tensor, margin: NDArray[np.int64]) -> torch.Tensor:
    """`values` (..., z, y, x) with as many voxels more on each side, like those at the border."""
    for axis, more in enumerate(margin.tolist(), start=values.ndim - 3):
        size = values.shape[axis]
        values = values.index_select(axis, torch.arange(-more, size + more).clamp(0, size - 1))
    return values


@lru_cache(maxsize=64)
def _spline_basis(number: int, spacing: int) -> NDArray[np.float32]:
    """Weights (number, points) of the moved points for each voxel of an axis; rows sum to 1."""
    position = np.arange(number) / spacing
    first = np.floor(position).astype(int)
    u = position - first
    weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, 3 * (u + u**2 - u**3) + 1, u**3])
    basis = np.zeros((number, first[-1] + 4), np.float32)
    for k in range(4):
        basis[np.arange(number), first + k] = weights[k] / 6
    return basis
