"""Dice from additive counts: equal to MONAI's on whole masks, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import DiceMetric
from numpy.testing import assert_allclose, assert_array_equal

from unet_batch.errors import GeometryError
from unet_batch.evaluation.dice import (
    Overlap,
    count_overlap,
    require_same_shape,
)
from unet_batch.tiling.box import Box


def random_masks(
    seed: int, shape: tuple[int, ...] = (9, 11, 7), num_classes: int = 4, dtype: str = "uint8"
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = rng.integers(0, num_classes, shape).astype(dtype)
    truth = np.where(rng.random(shape) < 0.6, predicted, rng.integers(0, num_classes, shape))
    return predicted, truth.astype(dtype)


def monai_dice(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    metric = DiceMetric(include_background=False, num_classes=num_classes, reduction="none")
    maps = [torch.from_numpy(m.astype(np.int64))[None, None] for m in (predicted, truth)]
    return metric(*maps)[0].numpy()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), num_classes=st.integers(2, 6))
def test_dice_equals_monais_on_random_label_maps(seed: int, num_classes: int) -> None:
    predicted, truth = random_masks(seed, num_classes=num_classes)
    ours = count_overlap(predicted, truth, range(1, num_classes)).dice
    assert_allclose(ours, monai_dice(predicted, truth, num_classes), atol=1e-6)


def test_a_class_that_neither_mask_holds_is_nan_as_in_monai() -> None:
    predicted, truth = random_masks(1, num_classes=3)
    ours = count_overlap(predicted, truth, (1, 2, 3)).dice
    assert np.isnan(ours[2])
    assert np.isnan(monai_dice(predicted, truth, 4)[2])


def test_a_class_that_only_one_mask_holds_scores_zero() -> None:
    blank, organ = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    assert count_overlap(blank, organ, [1]).dice.tolist() == [0.0]
    assert count_overlap(organ, blank, [1]).dice.tolist() == [0.0]


@given(seed=st.integers(0, 2**16), cell=st.tuples(*[st.integers(3, 12)] * 3))
def test_counts_do_not_depend_on_how_the_masks_are_cut(seed: int, cell: tuple[int, ...]) -> None:
    predicted, truth = random_masks(seed)
    regions = (region.slices for region in Box.from_shape(predicted.shape).split(cell))
    parts = (count_overlap(predicted[s], truth[s], (1, 2, 3)) for s in regions)
    total = sum(parts, start=Overlap.nothing(3))
    assert_array_equal(total.counts, count_overlap(predicted, truth, (1, 2, 3)).counts)


def test_overlaps_of_two_halves_add_up_to_the_whole() -> None:
    predicted, truth = random_masks(3)
    halves = [count_overlap(predicted[s], truth[s], (1, 2, 3)) for s in np.s_[:4, 4:]]
    total = sum(halves, start=Overlap.nothing(3))
    assert_array_equal(total.counts, count_overlap(predicted, truth, (1, 2, 3)).counts)


def test_masks_longer_than_one_counting_slice_are_counted_whole() -> None:
    predicted, truth = random_masks(4, shape=(3, 700, 701))
    expected = [int(((predicted == c) & (truth == c)).sum()) for c in (1, 2, 3)]
    assert count_overlap(predicted, truth, (1, 2, 3)).intersection.tolist() == expected


def test_classes_are_matched_by_value_and_other_values_are_background() -> None:
    predicted, truth = random_masks(5)
    spread = np.array([0, 7, 300, 65535], np.uint16)
    ours = count_overlap(spread[predicted], spread[truth], (300, 65535))
    assert_array_equal(ours.counts, count_overlap(predicted, truth, (2, 3)).counts)


def test_masks_of_unlike_dtypes_are_compared_by_value() -> None:
    predicted, truth = random_masks(6)
    wide = count_overlap(predicted, truth.astype(np.uint16), (1, 2, 3))
    assert_array_equal(wide.counts, count_overlap(predicted, truth, (1, 2, 3)).counts)


def test_a_truth_of_another_shape_is_a_geometry_error() -> None:
    require_same_shape((4, 5, 6), [4, 5, 6], where="case_7")
    with pytest.raises(GeometryError, match=r"case_7.*\(4, 5, 6\).*\(4, 5, 7\)"):
        require_same_shape((4, 5, 6), (4, 5, 7), where="case_7")
