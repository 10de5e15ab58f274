"""Changes of a patch's intensities: contrast, gamma, noise, blur, low resolution."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from monai.networks.layers import GaussianFilter

from unet_batch.planning.specs.recipe import AugmentationSpec

Generator = np.random.Generator


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
    """Blur; what lies outside is like the closest voxel, so that no face grows dark."""
    sigma, reach = rng.uniform(0.5, 1.0), 4
    batch = image.transpose(0, 1) if is_planar else image[None]
    num_axes = batch.ndim - 2
    wide = F.pad(batch, (reach,) * (2 * num_axes), mode="replicate")
    blurred = torch.as_tensor(GaussianFilter(num_axes, sigma)(wide))
    for axis in range(2, batch.ndim):
        blurred = blurred.narrow(axis, reach, batch.shape[axis])
    return blurred.transpose(0, 1) if is_planar else blurred[0]


def _lower_resolution(image: torch.Tensor, rng: Generator, *, is_planar: bool) -> torch.Tensor:
    share = rng.uniform(0.5, 1.0)
    shape = tuple(image.shape[1:])
    small = [max(1, round(n * share)) for n in shape]
    if is_planar:
        small[0] = shape[0]
    # "nearest" takes the voxel before the middle: the image would move against its truth.
    coarse = F.interpolate(image[None], size=small, mode="nearest-exact")
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0]
