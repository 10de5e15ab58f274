"""Scores: millilitres from spacing, names from the Labels, summaries that skip the undefined."""

from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from unet_batch.evaluation.dice import Overlap, count_overlap
from unet_batch.evaluation.scores import (
    SCORES_SCHEMA,
    Score,
    foreground_classes,
    mean_over_classes,
    scores_of,
    scores_table,
    summarise,
)
from unet_batch.planning.volume_info import LabelClass

LIVER, SPLEEN = LabelClass(1, "liver"), LabelClass(2, "spleen")


def score(volume_id: str, dice: float | None, class_value: int = 1) -> Score:
    return Score(volume_id, class_value, f"class {class_value}", dice, 1.0, 1.0, 5, 10, 10)


def test_volumes_in_millilitres_follow_from_the_spacing() -> None:
    mask = np.ones((2, 5, 10), np.uint8)
    (row,) = scores_of("a", [LIVER], count_overlap(mask, mask, [1]), (5.0, 0.8, 0.5))
    assert row.predicted_ml == pytest.approx(100 * 5.0 * 0.8 * 0.5 / 1000)
    assert (row.dice, row.true_voxels, row.class_name) == (1.0, 100, "liver")


def test_dice_is_none_where_neither_mask_holds_the_class() -> None:
    (row,) = scores_of("a", [LIVER], Overlap.nothing(1), (1.0, 1.0, 1.0))
    assert row.dice is None


def test_classes_of_both_masks_are_scored_under_the_predictions_names() -> None:
    truth = (LabelClass(0, "background"), LabelClass(1, "class 1"), SPLEEN)
    assert foreground_classes([LIVER], truth) == (LIVER, SPLEEN)


def test_the_table_keeps_its_schema_through_parquet_and_undefined_dice_as_null() -> None:
    file = io.BytesIO()
    pq.write_table(scores_table([score("b", None), score("a", 0.5)]), file)
    table = pq.read_table(file)
    assert table.schema.equals(SCORES_SCHEMA)
    assert table.column("volume_id").to_pylist() == ["a", "b"]
    assert table.column("dice").to_pylist() == [0.5, None]


def test_an_empty_table_has_the_schema_too() -> None:
    assert scores_table([]).schema.equals(SCORES_SCHEMA)


def test_the_summary_equals_numpys_and_counts_the_undefined_apart() -> None:
    dice = [0.9, 0.4, 0.7, 0.8]
    (summary,) = summarise([*(score(f"v{k}", d) for k, d in enumerate(dice)), score("e", None)])
    assert summary.mean == pytest.approx(np.mean(dice))
    assert summary.std == pytest.approx(np.std(dice, ddof=1))
    assert (summary.min, summary.median) == (0.4, pytest.approx(0.75))
    assert (summary.num_scored, summary.num_empty) == (4, 1)


def test_the_overall_mean_weighs_classes_alike() -> None:
    scores = [score("a", 1.0), score("b", 1.0), score("c", 1.0), score("a", 0.0, class_value=2)]
    assert mean_over_classes(summarise(scores)) == pytest.approx(0.5)


def test_nothing_scored_has_no_mean() -> None:
    assert mean_over_classes(summarise([score("a", None)])) is None
