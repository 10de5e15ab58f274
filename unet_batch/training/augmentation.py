"""Augmentation: random but repeatable changes of one training patch, cheap on a CPU.

Rotation, scaling, cropping and padding are one interpolation: the patch's voxels are looked
up in the Volume through one affine map, so that nothing is resampled twice and only voxels
that land in the patch are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from monai.networks.layers import GaussianFilter
from monai.transforms.utils import create_rotate
from numpy.typing import NDArray

from unet_batch.planning.specs.recipe import AugmentationSpec

Matrix = NDArray[np.float64]
Generator = np.random.Generator

_AXES = ("z", "y", "x")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a patch lies in an array.

    Attributes
    ----------
    matrix: maps offsets from the patch's centre to offsets in the array (zyx voxels).
    centre_zyx: counts voxel edges, so that voxel k spans k to k + 1.
    roi_zyx: shape of the patch.
    """

    matrix: Matrix
    centre_zyx: NDArray[np.float64]
    roi_zyx: tuple[int, ...]


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


def reach(matrix: Matrix, roi_zyx: Sequence[int]) -> NDArray[np.float64]:
    """How far from its centre a patch of `roi_zyx` looks into the Volume, in voxels (zyx)."""
    extent: NDArray[np.float64] = np.abs(matrix) @ ((np.asarray(roi_zyx) - 1) / 2) + 0.5
    return extent


def warp(
    image_czyx: torch.Tensor, truth_zyx: torch.Tensor, place: Placement
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch that lies at `place` in an image and its truth; 0 outside.

    The image is looked up linearly, the truth at the nearest voxel. Returns float32
    (c, *place.roi_zyx) and (1, *place.roi_zyx).
    """
    grid = _lookup_grid(place, image_czyx.shape[1:])
    image = F.grid_sample(image_czyx[None], grid, align_corners=False)
    truth = F.grid_sample(
        truth_zyx.to(torch.float32)[None, None], grid, mode="nearest", align_corners=False
    )
    return image[0], truth[0]


def _lookup_grid(place: Placement, shape_zyx: Sequence[int]) -> torch.Tensor:
    """Where each voxel of the patch lies, as grid_sample wants it: x first, -1 to 1."""
    shape, roi = np.array(shape_zyx), np.array(place.roi_zyx)
    linear = np.diag(2 / shape) @ place.matrix @ np.diag(roi / 2)
    offset = place.centre_zyx * 2 / shape - 1
    theta = np.concatenate([linear[::-1, ::-1], offset[::-1, None]], axis=1)
    return F.affine_grid(
        torch.from_numpy(theta.astype(np.float32))[None],
        [1, 1, *place.roi_zyx],
        align_corners=False,
    )


def change_intensity(
    image_czyx: torch.Tensor, spec: AugmentationSpec, rng: Generator, *, is_planar: bool = False
) -> torch.Tensor:
    """`image_czyx` (normalised) with the changes of `spec` that chance picks; shape unchanged."""
    changes: tuple[tuple[float, Callable[[torch.Tensor, Generator], torch.Tensor]], ...] = (
        (spec.contrast, _change_contrast),
        (spec.gamma, _change_gamma),
        (spec.noise, _add_noise),
    )
    for probability, change in changes:
        if rng.random() < probability:
            image_czyx = change(image_czyx, rng)
    if rng.random() < spec.blur:
        image_czyx = _blur(image_czyx, rng, is_planar=is_planar)
    if rng.random() < spec.low_resolution:
        image_czyx = _lower_resolution(image_czyx, rng, is_planar=is_planar)
    return image_czyx


def _change_contrast(image: torch.Tensor, rng: Generator) -> torch.Tensor:
    return image * rng.uniform(0.75, 1.25) + rng.uniform(-0.2, 0.2)


def _change_gamma(image: torch.Tensor, rng: Generator) -> torch.Tensor:
    """Raise the patch's range to a power, then give it back its mean and deviation."""
    exponent = math.exp(rng.uniform(-0.4, 0.4))
    low, high = image.amin(), image.amax()
    mean, std = image.mean(), image.std()
    bent = ((image - low) / (high - low).clamp_min(1e-6)).pow(exponent)
    return (bent - bent.mean()) / bent.std().clamp_min(1e-6) * std + mean


def _add_noise(image: torch.Tensor, rng: Generator) -> torch.Tensor:
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    return image + noise * rng.uniform(0.0, 0.15)


def _blur(image: torch.Tensor, rng: Generator, *, is_planar: bool) -> torch.Tensor:
    sigma = rng.uniform(0.5, 1.0)
    if is_planar:
        blurred = GaussianFilter(2, sigma)(image.transpose(0, 1))
        return torch.as_tensor(blurred).transpose(0, 1)
    return torch.as_tensor(GaussianFilter(3, sigma)(image[None])[0])


def _lower_resolution(image: torch.Tensor, rng: Generator, *, is_planar: bool) -> torch.Tensor:
    share = rng.uniform(0.5, 1.0)
    shape = tuple(image.shape[1:])
    small = [max(1, round(n * share)) for n in shape]
    if is_planar:
        small[0] = shape[0]
    coarse = F.interpolate(image[None], size=small, mode="nearest")
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0]
