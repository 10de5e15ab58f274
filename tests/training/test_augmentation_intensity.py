from __future__ import annotations

import numpy as np
import pytest
import torch

from unet_batch.planning.specs.recipe import AugmentationSpec
from unet_batch.training.augmentation.intensity import change_intensity

NONE = AugmentationSpec(affine=0, contrast=0, gamma=0, noise=0, blur=0, low_resolution=0)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scan(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(generator().random((1, *shape), dtype=np.float32))


@pytest.mark.parametrize("name", ["contrast", "gamma", "noise", "blur", "low_resolution"])
@pytest.mark.parametrize("is_planar", [False, True])
def test_each_change_acts_when_asked_and_keeps_the_shape(name: str, is_planar: bool) -> None:
    image = scan((1, 14, 16) if is_planar else (12, 14, 16))
    before = image.clone()
    spec = NONE.model_copy(update={name: 1.0})
    changed = change_intensity(image, spec, generator(), is_planar=is_planar)
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
    assert not torch.allclose(changed, before)
    assert torch.equal(image, before)


def test_nothing_happens_at_probability_0() -> None:
    image = scan((4, 5, 6))
    assert change_intensity(image, NONE, generator()) is image


def test_gamma_of_a_constant_patch_is_finite() -> None:
    spec = NONE.model_copy(update={"gamma": 1.0})
    assert torch.isfinite(change_intensity(torch.zeros(1, 4, 4, 4), spec, generator())).all()
