from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Spacing

from unet_batch.models.resampling import (
    _resample_by_axis,
    largest_on_scan_grid,
    nearest_to_model_grid,
    resample,
    to_model_grid,
    to_scan_grid,
)
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid_map import AxisTurn, GridMap, turns_to

# A sagittal scan: z runs to the left, y down, x backwards; turned by a few degrees.
TURN = np.cos(0.1), np.sin(0.1)
SAGITTAL = np.array(
    [
        [-4.8, 0, 0, 50],
        [0, 0.9 * TURN[1], -0.9 * TURN[0], 80],
        [0, -0.9 * TURN[0], -0.9 * TURN[1], 9],
        [0, 0, 0, 1],
    ]
)
SPACING = (4.8, 0.9, 0.9)


def grid_for(shape: tuple[int, ...], code: str, wanted: tuple[float | None, ...]) -> GridMap:
    return GridMap.of(shape, SPACING, wanted_mm=wanted, turns=turns_to(code, SAGITTAL))


def random_values(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))


def monais(code: str, wanted: tuple[float, ...]) -> Compose:
    return Compose([Orientation(code[::-1]), Spacing(wanted)])


@pytest.mark.parametrize("code", ["RAS", "LPS", "SPL"])
@pytest.mark.parametrize("wanted", [(1.0, 1.0, 1.0), (0.9, 2.3, 4.0), (3.1, 0.7, 0.9)])
def test_there_and_back_is_monais(code: str, wanted: tuple[float, ...]) -> None:
    shape = (7, 31, 22)
    voxels, grid = random_values(2, *shape), grid_for(shape, code, wanted)
    scan, model = Box.from_shape(shape), Box.from_shape(grid.model_shape)
    ours = to_model_grid(voxels, scan, grid, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = monais(code, wanted)
        theirs = chain(MetaTensor(voxels, affine=SAGITTAL))
        back = chain.inverse(theirs)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    again = to_scan_grid(ours, model, grid, scan)
    np.testing.assert_allclose(again, back, atol=2e-5)


@st.composite
def parts(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    spans = [
        sorted(
            draw(
                st.tuples(
                    *[st.integers(0, n)] * 2,
                )
            )
        )
        for n in shape
    ]
    return Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))


@given(st.data(), st.sampled_from(["RAS", "SPL"]), st.floats(0.4, 7.0))
@settings(max_examples=60)
def test_a_region_has_the_bits_of_the_whole(data: st.DataObject, code: str, mm: float) -> None:
    shape = (5, 14, 11)
    grid = grid_for(shape, code, (mm, None, 1.7))
    voxels = random_values(1, *shape)
    scan, model = Box.from_shape(shape), Box.from_shape(grid.model_shape)
    whole = to_model_grid(voxels, scan, grid, model)
    part = data.draw(parts(grid.model_shape).filter(bool))
    held = grid.scan_box(part)
    region = to_model_grid(voxels[:, *held.slices], held, grid, part)
    assert torch.equal(region, whole[:, *part.slices])
    back = to_scan_grid(whole, model, grid, scan)
    wanted = data.draw(parts(shape).filter(bool))
    held = grid.model_box(wanted)
    region = to_scan_grid(whole[:, *held.slices], held, grid, wanted)
    assert torch.equal(region, back[:, *wanted.slices])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_devices_and_the_host_agree(dtype: torch.dtype) -> None:
    grid = grid_for((6, 9, 8), "RAS", (2.0, 0.5, 0.9))
    voxels = random_values(3, 6, 9, 8).to(dtype)
    taps = grid.taps_to_model(Box((1, 2, 0), (9, 4, 8)))
    turned = voxels.permute(0, *(1 + axis for axis in grid.scan_axes))
    theirs = _resample_by_axis(turned.float(), taps)
    for x_first in (True, False):
        ours = resample(turned, taps, x_first=x_first)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs)


def test_an_axis_that_is_kept_keeps_its_values() -> None:
    turns = (
        AxisTurn(2, is_flipped=True),
        AxisTurn(0, is_flipped=False),
        AxisTurn(1, is_flipped=True),
    )
    grid = GridMap.of((4, 5, 6), SPACING, wanted_mm=None, turns=turns)
    voxels = random_values(1, 4, 5, 6)
    whole = Box.from_shape((4, 5, 6))
    ours = to_model_grid(voxels, whole, grid, Box.from_shape(grid.model_shape))
    assert torch.equal(ours, voxels.permute(0, 3, 1, 2).flip(1, 3))


def test_masks_take_the_nearest_voxel() -> None:
    shape = (7, 31, 22)
    grid = grid_for(shape, "RAS", (1.0, 1.3, 2.3))
    mask = torch.from_numpy(np.random.default_rng(0).integers(0, 9, shape))
    model = Box.from_shape(grid.model_shape)
    ours = nearest_to_model_grid(mask, Box.from_shape(shape), grid, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = Compose([Orientation("SAR"), Spacing((1.0, 1.3, 2.3), mode="nearest")])
        theirs = chain(MetaTensor(mask[None].float(), affine=SAGITTAL))[0]
    assert ours.dtype == mask.dtype
    assert (ours.float() == torch.as_tensor(theirs)).float().mean() > 0.999


@pytest.mark.parametrize("mm", [0.5, 0.9, 2.0])
def test_the_largest_is_that_of_the_values(mm: float) -> None:
    shape = (4, 11, 12)
    grid = grid_for(shape, "RAS", (1.0, 1.4, mm))
    held, whole = Box.from_shape(grid.model_shape), Box.from_shape(shape)
    values = random_values(5, *grid.model_shape)
    ours = largest_on_scan_grid(values, held, grid, whole)
    assert torch.equal(ours.long(), to_scan_grid(values, held, grid, whole).max(0).indices)
