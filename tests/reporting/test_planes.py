"""Anatomical planes of any affine: the same picture however the voxels are stored."""

from __future__ import annotations

from itertools import permutations, product

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from unet_batch.reporting.planes import MAX_SLICE_VOXELS, fullest_slices, planes_of

SPACING_RAS = (1.0, 2.0, 3.0)
PATIENT = np.arange(4 * 5 * 6).reshape(4, 5, 6)
"""A patient by (R, A, S): index grows towards right, front and head."""


def stored(order: tuple[int, ...], signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """PATIENT with its voxel axes in `order` and reversed where the sign is -1, with its affine."""
    voxels = PATIENT.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel_axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, voxel_axis] = sign * SPACING_RAS[world]
    return voxels, affine


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_pictures_show_the_patient_radiologically_in_every_orientation(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    voxels, affine = stored(order, signs)
    planes = {plane.name: plane for plane in planes_of(affine, voxels.shape)}
    lazy = da.from_array(voxels, chunks=2)
    sagittal_at = np.argwhere(voxels == PATIENT[2, 0, 0])[0][planes["sagittal"].axis]
    axial_at = np.argwhere(voxels == PATIENT[0, 0, 1])[0][planes["axial"].axis]
    assert_array_equal(planes["axial"].cut(lazy, int(axial_at)), PATIENT[::-1, ::-1, 1].T)
    assert_array_equal(planes["sagittal"].cut(lazy, int(sagittal_at)), PATIENT[2, ::-1, ::-1].T)
    letters = [(p.left, p.right, p.top, p.bottom) for p in planes.values()]
    assert letters == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]


def test_sizes_follow_the_spacing_of_the_axes_shown() -> None:
    voxels, affine = stored((2, 1, 0), (1, -1, -1))
    axial, coronal, sagittal = planes_of(affine, voxels.shape)
    assert axial.size_mm(voxels.shape) == (5 * 2.0, 4 * 1.0)
    assert coronal.size_mm(voxels.shape) == (6 * 3.0, 4 * 1.0)
    assert sagittal.size_mm(voxels.shape) == (6 * 3.0, 5 * 2.0)


def test_an_oblique_scan_is_named_by_its_closest_axes() -> None:
    voxels, affine = stored((2, 1, 0), (1, 1, 1))
    tilt = np.deg2rad(30)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    names = [(p.name, p.axis) for p in planes_of(rotation @ affine, voxels.shape)]
    assert names == [("axial", 0), ("coronal", 1), ("sagittal", 2)]


def test_a_single_slice_has_one_plane() -> None:
    (plane,) = planes_of(np.eye(4)[[2, 1, 0, 3]], (1, 20, 30))
    assert plane.axis == 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), chunks=st.tuples(*[st.integers(1, 9)] * 3))
def test_the_fullest_slices_hold_most_of_mask_and_truth_whatever_the_chunks(
    seed: int, chunks: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    mask, truth = (rng.random((2, 6, 7, 8)) < 0.2).astype(np.uint8)
    found = fullest_slices(da.from_array(mask, chunks), da.from_array(truth, (3, 3, 3)))
    covered = (mask | truth) > 0
    for axis, position in enumerate(found):
        areas = covered.sum(axis=tuple({0, 1, 2} - {axis}))
        assert areas[position] == areas.max()


def test_a_block_is_cut_through_its_centre_and_an_empty_mask_in_the_middle() -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    assert fullest_slices(da.from_array(mask)) == (4, 4, 4)
    mask[1:4, 4:9, 2:5] = 3
    assert fullest_slices(da.from_array(mask)) == (2, 6, 3)


def test_a_huge_slice_is_thinned_while_it_is_read() -> None:
    image = da.zeros((2, MAX_SLICE_VOXELS + 2, 10), chunks=(1, 512, 10), dtype=np.uint8)
    (axial, *_) = planes_of(np.eye(4)[[2, 1, 0, 3]], image.shape)
    assert axial.cut(image, 0).shape == (MAX_SLICE_VOXELS // 2 + 1, 10)
