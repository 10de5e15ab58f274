from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from unet_batch.planning.specs.recipe import AugmentationSpec
from unet_batch.training.augmentation.placement import (
    Placement,
    draw_matrix,
    draw_moves,
    reach,
    warp,
)

NONE = AugmentationSpec(affine=0, contrast=0, gamma=0, noise=0, blur=0, low_resolution=0)
BENT = NONE.model_copy(update={"elastic": 1.0, "elastic_sigma": 1.5, "elastic_spacing": 8})


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
    assert torch.equal(mask[0], truth[2:8, 3:11, 3:13])


def test_outside_the_volume_a_patch_is_0() -> None:
    image, truth = scan((4, 4, 4))
    patch, _ = warp(image + 1, truth, place((2, 2, 2), (8, 8, 8), np.eye(3)))
    assert not patch[:, :2].any()
    assert torch.allclose(patch[:, 2:6, 2:6, 2:6], image + 1, atol=1e-5)


def test_a_turned_patch_has_no_dark_wedges_but_is_0_far_outside() -> None:
    image, truth = torch.ones(1, 16, 16, 16), torch.ones(16, 16, 16, dtype=torch.long)
    spec = AugmentationSpec(affine=1, rotation_deg=15, scale=0.15)
    for seed in range(20):
        matrix = draw_matrix(spec, (1, 1, 1), generator(seed))
        patch, mask = warp(image, truth, place((8, 8, 8), (16, 16, 16), matrix))
        assert torch.equal(patch, torch.ones_like(patch))
        assert torch.equal(mask, torch.ones_like(mask))
    far, _ = warp(image, truth, place((-8, 8, 8), (16, 16, 16), matrix))
    assert not far[:, :2].any()


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
    matrix = draw_matrix(AugmentationSpec(affine=1, rotation_deg=30), (1, 1, 1), generator())
    patch, mask = warp(blob, blob[0].long(), place((6, 7, 8), (12, 14, 16), matrix))
    assert float(((patch > 0.5) == (mask > 0.5)).float().mean()) > 0.97
    assert not torch.equal(patch, blob)


def test_rotation_is_in_millimetres_and_sizes_stay_in_bounds() -> None:
    spec = AugmentationSpec(affine=1, rotation_deg=90, scale=0.25)
    spacing = np.diag([5.0, 1.0, 1.0])
    for seed in range(20):
        matrix = draw_matrix(spec, (5, 1, 1), generator(seed))
        sizes = np.linalg.norm(spacing @ matrix @ np.linalg.inv(spacing), axis=0)
        in_mm = spacing @ matrix @ np.linalg.inv(spacing)
        assert np.all((np.abs(sizes) >= 1 / 1.25 - 1e-9) & (np.abs(sizes) <= 1.25 + 1e-9))
        assert np.allclose((in_mm.T @ in_mm) - np.diag(sizes**2), 0, atol=1e-9)


def test_a_planar_turn_leaves_z_alone() -> None:
    matrix = draw_matrix(AugmentationSpec(affine=1), (3, 1, 1), generator(), is_planar=True)
    assert np.allclose(matrix[0], [1, 0, 0])
    assert np.allclose(matrix[:, 0], [1, 0, 0])
    assert not np.allclose(matrix, np.eye(3))


def test_reach_holds_every_voxel_that_a_patch_looks_at() -> None:
    matrix = draw_matrix(AugmentationSpec(affine=1, rotation_deg=40), (1, 1, 1), generator(3))
    roi = (6, 8, 10)
    corners = np.stack(np.meshgrid(*[(-(n - 1) / 2, (n - 1) / 2) for n in roi]), -1).reshape(-1, 3)
    seen = np.abs(corners @ matrix.T).max(axis=0)
    assert np.allclose(reach(matrix, roi), seen + 0.5)


def bend(seed: int = 0, spacing: tuple[float, ...] = (1, 1, 1)) -> torch.Tensor:
    moves = draw_moves(BENT, spacing, (24, 32, 40), generator(seed))
    assert moves is not None
    return moves


def test_moves_are_smooth_and_of_the_deviation_asked_for() -> None:
    moves = torch.stack([bend(seed) for seed in range(40)])
    knots = moves[:, ::8, ::8, ::8]
    assert knots.std() == pytest.approx(1.5 * 0.88, rel=0.1)  # cut off at 2: 0.88 is left
    assert moves.diff(dim=1).abs().max() < 1.5
    assert moves.mean().abs() < 0.2


def test_moves_are_as_long_in_millimetres_along_every_axis() -> None:
    z, _, x = torch.stack([bend(seed, (4, 1, 1)) for seed in range(20)]).flatten(0, -2).std(dim=0)
    assert float(x / z) == pytest.approx(4, rel=0.15)


def test_a_planar_bend_leaves_z_alone() -> None:
    moves = draw_moves(BENT, (5, 1, 1), (1, 32, 40), generator(), is_planar=True)
    assert moves is not None
    assert not moves[..., 0].any()
    assert moves[..., 1].std() > 0.5


def test_bending_looks_voxels_up_where_they_were_moved_to() -> None:
    image, truth = scan((12, 14, 16))
    moves = torch.zeros(12, 14, 16, 3)
    moves[..., 2] = 2
    straight = place((6, 7, 8), (12, 14, 16), np.eye(3))
    patch, mask = warp(
        image, truth, Placement(straight.matrix, straight.centre_zyx, (12, 14, 16), moves)
    )
    assert torch.allclose(patch[..., :-2], image[..., 2:], atol=1e-5)
    assert torch.equal(mask[0, ..., :-2], truth[..., 2:])
    assert reach(np.eye(3), (12, 14, 16), moves).tolist() == [6, 7, 10]


def test_a_matrix_and_no_bend_are_drawn_at_probability_0() -> None:
    assert np.array_equal(draw_matrix(NONE, (1, 1, 1), generator()), np.eye(3))
    assert draw_moves(NONE, (1, 1, 1), (4, 4, 4), generator()) is None


@pytest.mark.parametrize("elastic", [0.0, 1.0])
def test_voxels_are_looked_up_as_torch_does(elastic: float) -> None:
    spec = AugmentationSpec(affine=1, rotation_deg=40, elastic=elastic, elastic_spacing=8)
    image, truth, roi = torch.rand(2, 10, 12, 14), scan((10, 12, 14))[1], (12, 14, 10)
    moves = draw_moves(spec, (1, 1, 1), roi, generator(1))
    one = Placement(draw_matrix(spec, (1, 1, 1), generator()), np.array([4.3, 7, 6]), roi, moves)
    offsets = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in roi], indexing="ij"), -1)
    places = offsets @ one.matrix.T + one.centre_zyx + (0 if moves is None else moves.numpy())
    margin = (4, 5, 4)  # a third of the patch: there both go on as at the border
    around = [(n, n) for n in margin]
    wide = torch.from_numpy(np.pad(image.numpy(), [(0, 0), *around], mode="edge"))
    wide_truth = torch.from_numpy(np.pad(truth.numpy(), around, mode="edge"))
    shape = np.array(wide_truth.shape)
    grid = torch.from_numpy((places + margin) * 2 / shape - 1).flip(-1).float()[None]
    patch, mask = warp(image, truth, one)
    wanted = F.grid_sample(wide[None], grid, align_corners=False)[0]
    assert torch.allclose(patch, wanted, atol=1e-4)
    truths = wide_truth.float()[None, None]
    nearest = F.grid_sample(truths, grid, mode="nearest", align_corners=False)
    assert float((nearest[0] == mask).float().mean()) > 0.999
