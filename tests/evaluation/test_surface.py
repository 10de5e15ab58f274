"""Surface distances: equal to MONAI's and to ITK's, however the mask is cut into regions."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from unet_batch.evaluation.surface import (
    SurfaceDistances,
    find_border,
    join_borders,
    surface_distances,
)
from unet_batch.formats.nifti import read_nifti_mask
from unet_batch.tiling.box import Box

pytestmark = [
    pytest.mark.filterwarnings("ignore:the (prediction|ground truth) of class:UserWarning"),
    # MONAI 1.6 warns of an argument that it passes to itself.
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning"),
]

Mask = NDArray[np.uint8]
seeds = st.integers(0, 2**16)
spacings = st.tuples(*[st.sampled_from([0.35, 0.8, 1.0, 2.5, 5.0])] * 3)


def blobs(seed: int, shape: tuple[int, ...] = (7, 9, 8), num_classes: int = 2) -> Mask:
    """Random masks with smooth and with ragged classes, touching each other and the border."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_classes + 1, [-(-n // 3) for n in shape])
    mask = np.kron(coarse, np.ones((3,) * len(shape), int))[tuple(map(slice, shape))]
    noisy = rng.random(shape) < 0.05
    return np.where(noisy, rng.integers(0, num_classes + 1, shape), mask).astype(np.uint8)


def distances_of(
    predicted: Mask, truth: Mask, spacing: tuple[float, ...], value: int = 1
) -> SurfaceDistances:
    borders = [find_border(mask, [1, 2]) for mask in (predicted, truth)]
    return surface_distances(*borders, value, shape_zyx=truth.shape, spacing_mm=spacing)


def itk_distances(mask: Mask, other: Mask, spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Millimetres from each contour voxel of `mask` to that of `other`, by ITK's own filters."""
    contours = []
    for voxels in (mask, other):
        image = sitk.GetImageFromArray(np.pad(voxels, 1))
        image.SetSpacing(spacing[::-1])
        contours.append(sitk.BinaryContour(image, fullyConnected=False, foregroundValue=1))
    far = sitk.SignedMaurerDistanceMap(contours[1], squaredDistance=False, useImageSpacing=True)
    at = sitk.GetArrayFromImage(contours[0]) == 1
    return np.abs(sitk.GetArrayFromImage(far)[at])


@settings(deadline=None, max_examples=40)
@given(seed=seeds, spacing=spacings, tolerance=st.sampled_from([0.0, 0.8, 1.0, 3.0]))
def test_distances_equal_monais(seed: int, spacing: tuple[float, ...], tolerance: float) -> None:
    predicted, truth = blobs(seed), blobs(seed + 1)
    ours = [distances_of(predicted, truth, spacing, value) for value in (1, 2)]
    hot = [
        torch.from_numpy(np.stack([m == v for v in (0, 1, 2)]))[None] for m in (predicted, truth)
    ]
    hd95 = compute_hausdorff_distance(*hot, percentile=95, spacing=spacing)[0]
    shares = compute_surface_dice(*hot, [tolerance] * 2, spacing=spacing)[0]
    assert_allclose([one.hd95_mm for one in ours], hd95, rtol=1e-5)
    assert_allclose([one.surface_dice(tolerance) for one in ours], shares, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, spacing=spacings)
def test_distances_equal_those_of_itk(seed: int, spacing: tuple[float, ...]) -> None:
    predicted, truth = (blobs(s, num_classes=1) for s in (seed, seed + 1))
    predicted[3, 3, 3] = truth[4, 4, 4] = 1
    ours = distances_of(predicted, truth, spacing)
    theirs = itk_distances(predicted, truth, spacing), itk_distances(truth, predicted, spacing)
    assert_allclose(np.sort(ours.from_predicted), np.sort(theirs[0]), rtol=1e-4, atol=1e-5)
    assert_allclose(np.sort(ours.from_truth), np.sort(theirs[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.data
def test_a_real_anisotropic_spleen_moved_by_a_slice_gives_itks_and_monais_distances(
    scans: Path,
) -> None:
    truth = read_nifti_mask(scans / "ct_spleen_msd_crop" / "sub-spleen2_ct_seg-manual.nii.gz")
    predicted = np.roll(truth.voxels_zyx, (1, 4), (0, 2))
    spacing = (5.0, 0.793, 0.793)
    ours = distances_of(predicted, truth.voxels_zyx, spacing)
    theirs = [
        itk_distances(*pair, spacing)
        for pair in ((predicted, truth.voxels_zyx), (truth.voxels_zyx, predicted))
    ]
    assert ours.hd95_mm == pytest.approx(max(np.percentile(d, 95) for d in theirs), rel=1e-4)
    hot = [
        torch.from_numpy(np.stack([m == v for v in (0, 1)]))[None]
        for m in (predicted, truth.voxels_zyx)
    ]
    share = compute_surface_dice(*hot, [3.0], spacing=spacing)
    assert ours.surface_dice(3.0) == pytest.approx(float(share), rel=1e-5)
    assert 0.2 < ours.surface_dice(3.0) < 0.9


@settings(deadline=None, max_examples=60)
@given(seed=seeds, cell=st.tuples(*[st.integers(1, 9)] * 3), flat=st.booleans())
def test_the_border_does_not_depend_on_how_the_mask_is_cut(
    seed: int, cell: tuple[int, ...], *, flat: bool
) -> None:
    mask = blobs(seed, (1, 9, 8) if flat else (7, 9, 8))
    whole = find_border(mask, [1, 2])
    regions = Box.from_shape(mask.shape).split(cell)
    parts = [find_border(mask[r.slices], [1, 2], region=r, shape_zyx=mask.shape) for r in regions]
    joined = join_borders(parts, mask.shape)
    assert_array_equal(joined.indices, whole.indices)
    assert_array_equal(joined.values, whole.values)


def test_a_solid_block_has_a_shell_and_a_slice_has_a_rim() -> None:
    block = np.ones((5, 5, 5), np.uint8)
    assert len(find_border(block, [1]).indices) == 5**3 - 3**3
    assert len(find_border(block[:1], [1]).indices) == 5**2 - 3**2


def test_values_that_are_no_class_have_no_border_but_end_that_of_others() -> None:
    mask = np.array([[[1, 1, 1, 7, 7]]], np.uint8)
    assert find_border(mask, [1]).indices.tolist() == [0, 2]


def test_of_two_empty_masks_nothing_is_known_and_of_one_the_distance_is_infinite() -> None:
    empty, full = np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)
    nothing = distances_of(empty, empty, (1, 1, 1))
    assert np.isnan([nothing.hd95_mm, nothing.surface_dice(1)]).all()
    for pair in ((empty, full), (full, empty)):
        one = distances_of(*pair, (1, 1, 1))
        assert (one.hd95_mm, one.surface_dice(1e9)) == (inf, 0.0)


def test_hd95_is_the_larger_direction_and_not_pooled() -> None:
    distances = SurfaceDistances(np.zeros(1000), np.full(10, 8.0))
    assert distances.hd95_mm == 8.0


def test_a_distance_of_the_tolerance_itself_is_within_in_spite_of_rounding() -> None:
    here, there = np.zeros((1, 1, 9), np.uint8), np.zeros((1, 1, 9), np.uint8)
    here[..., 0], there[..., 3] = 1, 1
    assert distances_of(here, there, (1, 1, 0.1)).surface_dice(0.3) == 1.0
    assert distances_of(here, there, (1, 1, 0.1)).surface_dice(0.2999) == 0.0
