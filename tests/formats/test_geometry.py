"""Grids: conversions are their own inverses, and masks move only where nothing is resampled."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from unet_batch.errors import GeometryError
from unet_batch.formats.geometry import (
    check_affine,
    onto_grid,
    orientation_code,
    reverse_index_order,
    swap_ras_lps,
)
from unet_batch.formats.scan import Affine, Mask
from unet_batch.planning.volume_info import LabelClass

CLASSES = (LabelClass(0, "background"), LabelClass(1, "organ"))
TURNS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@st.composite
def affines(draw: st.DrawFn) -> Affine:
    """Any rotation, 0.2 to 8 mm voxels, any origin; some left-handed."""
    angles = [draw(st.floats(-180, 180)) for _ in range(3)]
    spacing = [draw(st.floats(0.2, 8)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = [draw(st.floats(-1000, 1000)) for _ in range(3)]
    affine[:, 0] *= draw(st.sampled_from([1, -1]))
    return affine


def turned(mask: Mask, axes: tuple[int, ...], signs: tuple[int, ...]) -> Mask:
    """The same mask in the same place, stored with permuted and flipped axes."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        step[old, new] = sign
        step[old, 3] = mask.voxels_zyx.shape[old] - 1 if sign < 0 else 0
    flip = tuple(slice(None, None, sign) for sign in signs)
    return Mask(mask.voxels_zyx.transpose(axes)[flip], mask.affine @ step, mask.classes)


def example_mask(affine: Affine) -> Mask:
    voxels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    return Mask(voxels, affine, CLASSES)


@given(affines())
def test_conversions_are_their_own_inverse(affine: Affine) -> None:
    assert np.array_equal(reverse_index_order(reverse_index_order(affine)), affine)
    assert np.array_equal(swap_ras_lps(swap_ras_lps(affine)), affine)


@given(affines(), st.sampled_from(TURNS))
def test_a_mask_stored_in_any_orientation_comes_back_to_the_same_voxels(
    affine: Affine, turn: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    mask = example_mask(affine)
    back = onto_grid(turned(mask, *turn), affine, (2, 3, 4))
    assert np.array_equal(back.voxels_zyx, mask.voxels_zyx)
    assert np.array_equal(back.affine, affine)


@given(affines(), st.integers(0, 2))
def test_a_mask_half_a_voxel_off_is_refused(affine: Affine, axis: int) -> None:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, axis] / 2
    with pytest.raises(GeometryError, match=r"up to 0\.5 voxels apart"):
        onto_grid(example_mask(moved), affine, (2, 3, 4))


def test_a_mask_rounded_to_five_digits_is_accepted() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", [11, 7, 3], degrees=True).as_matrix() * 0.7
    voxels = np.ones((60, 500, 500), np.uint8)
    mask = Mask(voxels, affine.round(5), CLASSES)
    assert onto_grid(mask, affine, (60, 500, 500)).voxels_zyx.shape == voxels.shape


@given(affines(), st.sampled_from(TURNS), st.tuples(*[st.integers(0, 3)] * 3))
def test_a_mask_of_a_part_is_placed_in_the_whole(
    affine: Affine, turn: tuple[tuple[int, ...], tuple[int, ...]], start: tuple[int, int, int]
) -> None:
    part = affine.copy()
    part[:3, 3] = (affine @ [*start, 1])[:3]
    mask = example_mask(part)
    whole = onto_grid(turned(mask, *turn), affine, (5, 6, 8))
    there = tuple(slice(a, a + n) for a, n in zip(start, (2, 3, 4), strict=True))
    assert np.array_equal(whole.voxels_zyx[there], mask.voxels_zyx)
    assert np.count_nonzero(whole.voxels_zyx) == np.count_nonzero(mask.voxels_zyx)
    assert "covers" in whole.warnings[0]


def test_refusals_show_both_grids() -> None:
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    with pytest.raises(GeometryError, match="labelled voxels lie outside") as caught:
        onto_grid(example_mask(affine), affine, (2, 3, 3))
    assert "scan: 2 x 3 x 3" in str(caught.value)
    assert "mask: 2 x 3 x 4" in str(caught.value)
    with pytest.raises(GeometryError, match="not parallel or differ in spacing"):
        onto_grid(example_mask(np.eye(4)), affine, (2, 3, 4))


@pytest.mark.parametrize(
    ("affine_xyz", "code"),
    [
        (np.diag([1.0, 1, 1, 1]), "RAS"),
        (np.diag([-1.0, -1, 1, 1]), "LPS"),
        (np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), "PSR"),
    ],
)
def test_orientation_code_reads_x_first(affine_xyz: Affine, code: str) -> None:
    assert orientation_code(reverse_index_order(affine_xyz)) == code


@given(affines())
def test_oblique_grids_get_three_different_axes(affine: Affine) -> None:
    axes = {frozenset("LR"), frozenset("PA"), frozenset("IS")}
    assert {a for letter in orientation_code(affine) for a in axes if letter in a} == axes


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_affines_that_span_no_volume_are_refused(bad: float) -> None:
    with pytest.raises(GeometryError, match="a scan"):
        check_affine(np.diag([1.0, bad, 1.0, 1.0]), where="a scan")
