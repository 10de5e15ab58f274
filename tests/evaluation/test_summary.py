"""Summaries: numpy's figures over the Volumes that have a value, the others counted."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from unet_batch.evaluation.scores import Score, scores_table
from unet_batch.evaluation.summary import summarise
from unet_batch.planning.specs.scoring import BootstrapSpec


def score(
    volume_id: str,
    dice: float | None,
    class_value: int = 1,
    *,
    voxels: tuple[int, int] = (10, 10),
    hd95: float | None = 2.0,
) -> Score:
    ours, theirs = voxels
    name = f"class {class_value}"
    return Score(volume_id, class_value, name, dice, ours / 10, theirs / 10, 5, ours, theirs, hd95)


EMPTY = {"voxels": (0, 0), "hd95": None}


def test_the_summary_equals_numpys_and_counts_the_undefined_apart() -> None:
    dice = [0.9, 0.4, 0.7, 0.8]
    scores = [score(f"v{k}", d) for k, d in enumerate(dice)]
    (one,) = summarise([*scores, score("e", None, voxels=(0, 0), hd95=None)]).classes
    assert one.dice.mean == pytest.approx(np.mean(dice))
    assert one.dice.std == pytest.approx(np.std(dice, ddof=1))
    assert (one.dice.min, one.dice.median, one.dice.max) == (0.4, pytest.approx(0.75), 0.9)
    assert (one.num_scored, one.num_empty, one.dice.num) == (4, 1, 4)


def test_the_overall_mean_weighs_classes_alike() -> None:
    scores = [score("a", 1.0), score("b", 1.0), score("c", 1.0), score("a", 0.0, 2)]
    assert summarise(scores).mean_dice == pytest.approx(0.5)


def test_an_infinite_distance_is_counted_and_not_averaged() -> None:
    missed, false = (
        score("b", 0.0, voxels=(0, 9), hd95=inf),
        score("c", 0.0, voxels=(9, 0), hd95=inf),
    )
    (one,) = summarise([score("a", 1.0), missed, false]).classes
    assert (one.metrics["hd95_mm"].mean, one.metrics["hd95_mm"].num) == (2.0, 1)
    assert (one.num_missed, one.num_false, one.num_scored) == (1, 1, 3)
    assert one.dice.mean == pytest.approx(1 / 3)


def test_errors_of_volume_keep_their_sign() -> None:
    scores = [score("a", 0.9, voxels=(8, 10)), score("b", 0.9, voxels=(11, 10))]
    (one,) = summarise(scores).classes
    assert one.metrics["volume_error_ml"].mean == pytest.approx(-0.05)
    assert one.metrics["volume_error"].min == pytest.approx(-0.2)


def test_only_the_metrics_asked_for_are_summarised() -> None:
    summary = summarise([score("a", 0.9)], metrics=("hd95",))
    assert set(summary.overall) == {"hd95_mm"}
    assert summary.mean_dice is None
    assert summary.classes[0].dice.num == 0


def test_intervals_hold_the_mean_and_follow_the_seed() -> None:
    scores = [score(f"v{k}", d) for k, d in enumerate(np.linspace(0.5, 0.9, 20))]
    draws = BootstrapSpec(resamples=400, seed=7)
    summary = summarise(scores, bootstrap=draws)
    low, high = summary.overall["dice"].interval or (1.0, 0.0)
    assert 0.6 < low < 0.7 < high < 0.8
    assert summarise(scores_table(scores), bootstrap=draws) == summary
    assert summary.overall["hd95_mm"].interval == (2.0, 2.0)


def test_nothing_scored_has_no_mean() -> None:
    assert summarise([score("a", None, **EMPTY)]).mean_dice is None
    assert summarise([]).classes == ()
