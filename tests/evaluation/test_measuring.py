"""From voxels to scores: millilitres, what is undefined, and sums over regions."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.evaluation.dice import count_overlap
from unet_batch.evaluation.measuring import Scoring, measure_region, score_masks, scores_of
from unet_batch.planning.volume_info import LabelClass
from unet_batch.tiling.box import Box

CLASSES = (LabelClass(1, "liver"), LabelClass(2, "spleen"), LabelClass(9, "rare"))
VALUES = [one.value for one in CLASSES]
SPACING = (5.0, 0.8, 0.5)


def masks(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 3, (3, 3, 4)), np.ones((3, 3, 3), int)).astype(np.uint8)
    return np.roll(truth, 1, 2), truth


def test_volumes_in_millilitres_follow_from_the_spacing() -> None:
    mask = np.ones((2, 5, 10), np.uint8)
    row, *_ = score_masks("a", mask, mask, CLASSES, spacing_mm=SPACING)
    assert row.predicted_ml == pytest.approx(100 * 5.0 * 0.8 * 0.5 / 1000)
    assert (row.dice, row.true_voxels, row.class_name) == (1.0, 100, "liver")
    assert (row.hd95_mm, row.surface_dice, row.volume_error) == (0.0, 1.0, 0.0)


def test_a_class_that_neither_mask_holds_has_no_scores() -> None:
    *_, rare = score_masks("a", *masks(), CLASSES, spacing_mm=SPACING)
    assert (rare.dice, rare.hd95_mm, rare.surface_dice, rare.volume_error) == (None,) * 4


def test_a_class_that_only_one_mask_holds_is_infinitely_far() -> None:
    blank, organ = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), np.uint8)
    for pair in ((blank, organ), (organ, blank)):
        row, *_ = score_masks("a", *pair, CLASSES, spacing_mm=SPACING)
        assert (row.dice, row.hd95_mm, row.surface_dice) == (0.0, inf, 0.0)


@given(seed=st.integers(0, 999), cell=st.tuples(*[st.integers(2, 12)] * 3))
def test_scores_do_not_depend_on_how_the_masks_are_cut(
    seed: int, cell: tuple[int, int, int]
) -> None:
    predicted, truth = masks(seed)
    parts = [
        measure_region(
            predicted[region.slices],
            truth[region.slices],
            VALUES,
            region=region,
            shape_zyx=truth.shape,
            has_surfaces=True,
        )
        for region in Box.from_shape(truth.shape).split(cell)
    ]
    whole = sum(parts[1:], start=parts[0])
    scores = scores_of("a", CLASSES, whole, spacing_mm=SPACING, scoring=Scoring())
    assert scores == score_masks("a", predicted, truth, CLASSES, spacing_mm=SPACING)


def test_metrics_that_are_not_asked_for_are_not_made() -> None:
    plain = Scoring(metrics=("dice", "volume_error"))
    row, *_ = score_masks("a", *masks(), CLASSES, spacing_mm=SPACING, scoring=plain)
    assert (row.hd95_mm, row.surface_dice) == (None, None)
    assert row.dice == pytest.approx(count_overlap(*masks(), VALUES).dice[0])
    far = Scoring(metrics=("hd95",))
    row, *_ = score_masks("a", *masks(), CLASSES, spacing_mm=SPACING, scoring=far)
    assert row.hd95_mm is not None
    assert row.surface_dice is None


def test_the_tolerance_is_in_millimetres() -> None:
    """Masks one voxel of 0.5 mm apart along x."""
    shares = [
        score_masks("a", *masks(), CLASSES, spacing_mm=SPACING, scoring=Scoring(tolerance_mm=mm))[
            0
        ].surface_dice
        for mm in (0.0, 0.4, 0.5)
    ]
    assert shares[0] == shares[1] < shares[2]


def test_without_a_truth_only_volumes_are_known() -> None:
    mask, _ = masks()
    alone = measure_region(
        mask,
        None,
        VALUES,
        region=Box.from_shape(mask.shape),
        shape_zyx=mask.shape,
        has_surfaces=True,
    )
    row, *_ = scores_of("a", CLASSES, alone, spacing_mm=SPACING, scoring=Scoring())
    assert row.predicted_voxels == np.count_nonzero(mask == 1)
    assert (row.dice, row.true_ml, row.volume_error_ml, row.hd95_mm) == (None,) * 4
