"""Scores: names from the Labels, errors of volume, and a table that keeps its schema."""

from __future__ import annotations

import io
from math import inf

import pyarrow.parquet as pq
import pytest

from unet_batch.evaluation.scores import (
    SCORES_SCHEMA,
    Score,
    ScoreRows,
    foreground_classes,
    scores_table,
)
from unet_batch.planning.volume_info import LabelClass

LIVER, SPLEEN = LabelClass(1, "liver"), LabelClass(2, "spleen")


def score(volume_id: str, dice: float | None, **fields: float | None) -> Score:
    known = {"predicted_ml": 3.0, "true_ml": 4.0, "hd95_mm": None} | fields
    return Score(
        volume_id,
        1,
        "liver",
        dice,
        known["predicted_ml"] or 0.0,
        known["true_ml"],
        5,
        10,
        10,
        hd95_mm=known["hd95_mm"],
    )


def test_classes_of_both_masks_are_scored_under_the_predictions_names() -> None:
    truth = (LabelClass(0, "background"), LabelClass(1, "class 1"), SPLEEN)
    assert foreground_classes([LIVER], truth) == (LIVER, SPLEEN)


def test_an_error_of_volume_is_positive_where_the_mask_is_too_large() -> None:
    assert score("a", 0.5).volume_error_ml == -1.0
    assert score("a", 0.5).volume_error == -0.25
    assert score("a", 0.5, predicted_ml=6.0).volume_error == 0.5


def test_an_error_of_volume_is_unknown_without_a_truth_and_not_relative_to_nothing() -> None:
    assert score("a", None, true_ml=None).volume_error_ml is None
    assert score("a", 0.0, true_ml=0.0).volume_error_ml == 3.0
    assert score("a", 0.0, true_ml=0.0).volume_error is None


def test_the_table_keeps_its_schema_through_parquet_and_the_undefined_as_null() -> None:
    file = io.BytesIO()
    pq.write_table(scores_table([score("b", None), score("a", 0.5, hd95_mm=inf)]), file)
    table = pq.read_table(file)
    assert table.schema.equals(SCORES_SCHEMA)
    assert table.column("volume_id").to_pylist() == ["a", "b"]
    assert table.column("dice").to_pylist() == [0.5, None]
    assert table.column("hd95_mm").to_pylist() == [inf, None]
    assert table.column("volume_error").to_pylist() == [-0.25, -0.25]


def test_rows_that_come_in_batches_are_all_there_and_sorted() -> None:
    rows = ScoreRows()
    for number in reversed(range(5000)):
        rows.add([score(f"v{number:04}", number / 5000)])
    table = rows.table({"tolerance_mm": 2.0})
    assert table.column("dice").to_pylist() == [number / 5000 for number in range(5000)]
    assert table.schema.metadata == {b"tolerance_mm": b"2.0"}


def test_an_empty_table_has_the_schema_too() -> None:
    assert scores_table([]).schema.equals(SCORES_SCHEMA)


@pytest.mark.parametrize("name", ["volume_error_ml", "volume_error", "surface_dice"])
def test_every_figure_of_a_score_is_a_column(name: str) -> None:
    assert name in SCORES_SCHEMA.names
    assert hasattr(score("a", 1.0), name)
