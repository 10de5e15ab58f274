from __future__ import annotations

import numpy as np
import pytest
import torch

from unet_batch.planning.specs.train import AugmentationSpec
from unet_batch.training.augmentation import (
    Placement,
    change_intensity,
    draw_matrix,
    reach,
    warp,
)

NONE = AugmentationSpec(affine=0, contrast=0, gamma=0, noise=0, blur=0, low_resolution=0)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scan(shape: tuple[int, ...] = (12, 14, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.from_numpy(generator().random(shape, dtype=np.float32))
    return values[None], (values > 0.7).long()


def place(centre: tuple[float, ...], roi: tuple[int, ...], matrix: np.ndarray) -> Placement:
    return Placement(matrix, np.array(centre), roi)


def test_without_a_turn_a_patch_is_an_exact_copy() -> None:
    image, truth = scan()
    patch, mask = warp(image, truth, place((5, 7, 8), (6, 8, 10), np.eye(3)))
    assert torch.allclose(patch, image[:, 2:8, 3:11, 3:13], atol=1e-5)
    assert torch.equal(mask[0], truth[2:8, 3:11, 3:13].float())


def test_outside_the_volume_a_patch_is_0() -> None:
    image, truth = scan((4, 4, 4))
    patch, _ = warp(image + 1, truth, place((2, 2, 2), (8, 8, 8), np.eye(3)))
    assert not patch[:, :2].any()
    assert torch.allclose(patch[:, 2:6, 2:6, 2:6], image + 1, atol=1e-5)


def test_a_flip_mirrors_the_patch_about_its_centre() -> None:
    image, truth = scan()
    spec = NONE.model_copy(update={"flip": ("x",)})
    matrices = [draw_matrix(spec, (1, 1, 1), generator(seed)) for seed in range(20)]
    flipped = next(one for one in matrices if one[2, 2] < 0)
    assert any(np.array_equal(one, np.eye(3)) for one in matrices)
    patch, _ = warp(image, truth, place((6, 7, 8), (12, 14, 16), flipped))
    assert torch.allclose(patch, image.flip(3), atol=1e-5)


def test_image_and_truth_move_together() -> None:
    image, _ = scan()
    blob = torch.zeros_like(image)
    blob[:, 3:9, 4:10, 5:11] = 1
    matrix = draw_matrix(AugmentationSpec(rotation_deg=30), (1, 1, 1), generator())
    patch, mask = warp(blob, blob[0].long(), place((6, 7, 8), (12, 14, 16), matrix))
    assert float(((patch > 0.5) == (mask > 0.5)).float().mean()) > 0.97
    assert not torch.equal(patch, blob)


def test_rotation_is_in_millimetres_and_sizes_stay_in_bounds() -> None:
    spec = AugmentationSpec(rotation_deg=90, scale=0.25)
    spacing = np.diag([5.0, 1.0, 1.0])
    for seed in range(20):
        matrix = draw_matrix(spec, (5, 1, 1), generator(seed))
        sizes = np.linalg.norm(spacing @ matrix @ np.linalg.inv(spacing), axis=0)
        in_mm = spacing @ matrix @ np.linalg.inv(spacing)
        assert np.all((np.abs(sizes) >= 1 / 1.25 - 1e-9) & (np.abs(sizes) <= 1.25 + 1e-9))
        assert np.allclose((in_mm.T @ in_mm) - np.diag(sizes**2), 0, atol=1e-9)


def test_a_planar_turn_leaves_z_alone() -> None:
    matrix = draw_matrix(AugmentationSpec(), (3, 1, 1), generator(), is_planar=True)
    assert np.allclose(matrix[0], [1, 0, 0])
    assert np.allclose(matrix[:, 0], [1, 0, 0])
    assert not np.allclose(matrix, np.eye(3))


def test_reach_holds_every_voxel_that_a_patch_looks_at() -> None:
    matrix = draw_matrix(AugmentationSpec(rotation_deg=40), (1, 1, 1), generator(3))
    roi = (6, 8, 10)
    corners = np.stack(np.meshgrid(*[(-(n - 1) / 2, (n - 1) / 2) for n in roi]), -1).reshape(-1, 3)
    seen = np.abs(corners @ matrix.T).max(axis=0)
    assert np.allclose(reach(matrix, roi), seen + 0.5)


@pytest.mark.parametrize("name", ["contrast", "gamma", "noise", "blur", "low_resolution"])
@pytest.mark.parametrize("is_planar", [False, True])
def test_each_change_acts_when_asked_and_keeps_the_shape(name: str, is_planar: bool) -> None:
    image, _ = scan((1, 14, 16) if is_planar else (12, 14, 16))
    before = image.clone()
    spec = NONE.model_copy(update={name: 1.0})
    changed = change_intensity(image, spec, generator(), is_planar=is_planar)
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
    assert not torch.allclose(changed, before)
    assert torch.equal(image, before)


def test_nothing_happens_at_probability_0() -> None:
    image, _ = scan()
    assert change_intensity(image, NONE, generator()) is image
    assert np.array_equal(draw_matrix(NONE, (1, 1, 1), generator()), np.eye(3))


def test_gamma_of_a_constant_patch_is_finite() -> None:
    spec = NONE.model_copy(update={"gamma": 1.0})
    assert torch.isfinite(change_intensity(torch.zeros(1, 4, 4, 4), spec, generator())).all()
