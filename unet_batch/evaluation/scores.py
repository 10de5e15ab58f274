"""Scores as values and as a table: one row a Volume and class, and their summary by class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev

import numpy as np
import pyarrow as pa

from unet_batch.evaluation.dice import Overlap
from unet_batch.planning.volume_info import LabelClass


@dataclass(frozen=True, slots=True)
class Score:
    """One class of one Volume against its truth.

    `dice` is None where neither mask holds the class; volumes are in millilitres.
    """

    volume_id: str
    class_value: int
    class_name: str
    dice: float | None
    predicted_ml: float
    true_ml: float
    intersection_voxels: int
    predicted_voxels: int
    true_voxels: int


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """Dice of one class over the `num_scored` Volumes in which mask or truth holds it.

    `std` is the sample standard deviation (0 for one Volume). All are None where no Volume
    holds the class; `num_empty` counts the Volumes that were left out for that reason.
    """

    class_value: int
    class_name: str
    mean: float | None
    std: float | None
    min: float | None
    median: float | None
    num_scored: int
    num_empty: int


SCORES_SCHEMA = pa.schema(
    [
        ("volume_id", pa.string()),
        ("class_value", pa.int32()),
        ("class_name", pa.string()),
        ("dice", pa.float64()),
        ("predicted_ml", pa.float64()),
        ("true_ml", pa.float64()),
        ("intersection_voxels", pa.int64()),
        ("predicted_voxels", pa.int64()),
        ("true_voxels", pa.int64()),
    ]
)


def foreground_classes(
    predicted: Sequence[LabelClass], truth: Sequence[LabelClass]
) -> tuple[LabelClass, ...]:
    """The classes to score, by value: those of either mask without background (value 0).

    Where both masks have a value, the prediction's name and colour stand.
    """
    by_value = {c.value: c for c in truth} | {c.value: c for c in predicted}
    return tuple(by_value[value] for value in sorted(by_value) if value != 0)


def scores_of(
    volume_id: str,
    classes: Sequence[LabelClass],
    overlap: Overlap,
    spacing_mm: Sequence[float],
) -> tuple[Score, ...]:
    """One Score for each of `classes`, whose order is that of `overlap`'s columns."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    dice = overlap.dice
    return tuple(
        Score(
            volume_id=volume_id,
            class_value=c.value,
            class_name=c.name,
            dice=None if np.isnan(dice[k]) else float(dice[k]),
            predicted_ml=int(overlap.predicted[k]) * voxel_ml,
            true_ml=int(overlap.true[k]) * voxel_ml,
            intersection_voxels=int(overlap.intersection[k]),
            predicted_voxels=int(overlap.predicted[k]),
            true_voxels=int(overlap.true[k]),
        )
        for k, c in enumerate(classes)
    )


def scores_table(scores: Iterable[Score]) -> pa.Table:
    """The scores as a table of `SCORES_SCHEMA`, sorted by Volume and class value."""
    rows = sorted(scores, key=lambda score: (score.volume_id, score.class_value))
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCORES_SCHEMA)


def summarise(scores: Iterable[Score]) -> tuple[ClassSummary, ...]:
    """One ClassSummary for each class value, in the order of the values."""
    by_class: dict[int, list[Score]] = defaultdict(list)
    for score in scores:
        by_class[score.class_value].append(score)
    return tuple(_summarise_class(by_class[value]) for value in sorted(by_class))


def mean_over_classes(summaries: Iterable[ClassSummary]) -> float | None:
    """The mean of the classes' mean Dice; None where no class was scored."""
    means = [summary.mean for summary in summaries if summary.mean is not None]
    return fmean(means) if means else None


def _summarise_class(scores: Sequence[Score]) -> ClassSummary:
    dice = [score.dice for score in scores if score.dice is not None]
    return ClassSummary(
        class_value=scores[0].class_value,
        class_name=scores[0].class_name,
        mean=fmean(dice) if dice else None,
        std=(stdev(dice) if len(dice) > 1 else 0.0) if dice else None,
        min=min(dice, default=None),
        median=median(dice) if dice else None,
        num_scored=len(dice),
        num_empty=len(scores) - len(dice),
    )
