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


def always(name: str, image: torch.Tensor, seed: int, *, is_planar: bool = False) -> torch.Tensor:
    spec = NONE.model_copy(update={name: 1.0})
    return change_intensity(image, spec, generator(seed), is_planar=is_planar)


def test_contrast_is_a_line_within_its_bounds() -> None:
    image = scan((6, 7, 8))
    for seed in range(20):
        changed = always("contrast", image, seed)
        slope = float((changed.max() - changed.min()) / (image.max() - image.min()))
        offset = float(changed.mean() - slope * image.mean())
        assert 0.75 <= slope <= 1.25
        assert abs(offset) <= 0.2
        torch.testing.assert_close(changed, image * slope + offset)


def test_gamma_bends_but_keeps_order_mean_and_deviation() -> None:
    image = scan((6, 7, 8))
    for seed in range(20):
        changed = always("gamma", image, seed)
        assert torch.equal(changed.flatten().argsort(), image.flatten().argsort())
        torch.testing.assert_close(changed.mean(), image.mean())
        torch.testing.assert_close(changed.std(), image.std())


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
@pytest.mark.parametrize("is_planar", [False, True])
def test_what_is_smoothed_stays_where_it_is(name: str, is_planar: bool) -> None:
    """Blurred or coarser, a blob may move this way or that, but not always the same way."""
    shape = (1, 24, 26) if is_planar else (20, 24, 26)
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")).float()
    middle = (torch.tensor(shape) - 1) / 2
    distance = ((places - middle.view(3, 1, 1, 1)) ** 2).sum(0)
    blob = torch.exp(-distance / 18)[None]
    moved = []
    for seed in range(60):
        changed = always(name, blob, seed, is_planar=is_planar)
        moved.append((places * changed).flatten(1).sum(1) / changed.sum() - middle)
    assert float(torch.stack(moved).mean(0).abs().max()) < 0.15


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_a_constant_patch_stays_constant_to_its_faces(name: str) -> None:
    image = torch.full((1, 9, 8, 7), 3.0)
    torch.testing.assert_close(always(name, image, 0), image)


def test_nothing_happens_at_probability_0() -> None:
    image = scan((4, 5, 6))
    assert change_intensity(image, NONE, generator()) is image


def test_gamma_of_a_constant_patch_is_finite() -> None:
    spec = NONE.model_copy(update={"gamma": 1.0})
    assert torch.isfinite(change_intensity(torch.zeros(1, 4, 4, 4), spec, generator())).all()
