"""Intervals of means: seeded, over Volumes, and the same as scipy's bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unet_batch.evaluation.bootstrap import intervals_of_means

NAN = float("nan")


def values(num: int = 30, classes: int = 2) -> np.ndarray:
    return np.random.default_rng(3).beta(9, 2, (num, classes))


def test_intervals_agree_with_scipys_percentile_bootstrap() -> None:
    ours = intervals_of_means(values(), resamples=20_000).columns
    for column, interval in zip(values().T, ours, strict=True):
        theirs = stats.bootstrap(
            (column,), np.mean, n_resamples=20_000, method="percentile", rng=1
        ).confidence_interval
        assert interval == pytest.approx(tuple(theirs), abs=2e-3)


def test_the_same_seed_gives_the_same_interval_and_another_a_close_one() -> None:
    first, again, other = (
        intervals_of_means(values(), resamples=500, seed=seed).columns[0] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first == pytest.approx(other, abs=0.02)


def test_draws_are_of_whole_volumes_so_classes_that_cancel_leave_no_doubt() -> None:
    column = values(classes=1)
    both = intervals_of_means(np.hstack([column, 1 - column]), resamples=200)
    assert both.overall == pytest.approx((0.5, 0.5))
    assert both.columns[0] is not None
    assert both.columns[0][1] - both.columns[0][0] > 0.02


def test_a_volume_without_a_value_is_left_out_of_the_mean() -> None:
    known = values(classes=1)
    padded = np.vstack([known, np.full_like(known, NAN)])
    (plain,), (sparse,) = (intervals_of_means(v, resamples=20_000).columns for v in (known, padded))
    assert sparse == pytest.approx(plain, abs=6e-3)


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    (narrow, _), (wide, _) = (
        intervals_of_means(values(), resamples=2000, confidence=c).columns for c in (0.5, 0.99)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_batches_of_draws_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = intervals_of_means(values(), resamples=100)
    monkeypatch.setattr("unet_batch.evaluation.bootstrap._BATCH_COUNTS", 90)
    found = intervals_of_means(values(), resamples=100)
    # Sums of another number of rows may differ in their last bit, as the processor's BLAS likes.
    assert found.columns == tuple(pytest.approx(one, rel=1e-12) for one in whole.columns)
    assert found.overall == pytest.approx(whole.overall, rel=1e-12)


@pytest.mark.parametrize(("rows", "resamples"), [(1, 100), (30, 0)])
def test_no_interval_of_one_volume_or_without_draws(rows: int, resamples: int) -> None:
    none = intervals_of_means(values(rows), resamples=resamples)
    assert (none.columns, none.overall) == ((None, None), None)


def test_a_class_that_no_volume_has_has_no_interval() -> None:
    column = np.full((5, 1), NAN)
    assert intervals_of_means(column, resamples=10).columns == (None,)
