"""What many Scores come to: for each class and metric a mean with its interval, and a spread.

Every figure is over the Volumes that have a value. Where only one of mask and truth holds a
class, Dice and surface Dice are 0 and count; a distance is infinite there and does not, but
`num_missed` and `num_false` tell how often that was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_batch.evaluation.bootstrap import Interval, intervals_of_means
from unet_batch.evaluation.scores import Score, scores_table
from unet_batch.planning.specs.scoring import METRICS, BootstrapSpec, Metric

Values = NDArray[np.float64]

COLUMNS: Mapping[Metric, tuple[str, ...]] = {
    "dice": ("dice",),
    "hd95": ("hd95_mm",),
    "surface_dice": ("surface_dice",),
    "volume_error": ("volume_error_ml", "volume_error"),
}
"""The columns of the table of scores that each metric fills."""

NO_BOOTSTRAP = BootstrapSpec(resamples=0)


@dataclass(frozen=True, slots=True)
class MeanScore:
    """A mean, and the interval that it lies in; None where nothing is known."""

    mean: float | None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """One metric of one class over the `num` Volumes that have a value.

    `std` is the sample standard deviation (0 for one Volume); all are None where `num` is 0.
    """

    mean: float | None
    interval: Interval | None
    std: float | None
    median: float | None
    min: float | None
    max: float | None
    num: int


NOTHING = MetricSummary(None, None, None, None, None, None, 0)


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class over all Volumes.

    Attributes
    ----------
    num_scored: Volumes in which mask or truth holds the class.
    num_empty: Volumes in which neither does; they have no score.
    num_missed, num_false: of the scored, those where only the truth or only the mask holds it.
    metrics: by column of the table of scores, such as `dice` and `hd95_mm`.
    """

    class_value: int
    class_name: str
    num_scored: int
    num_empty: int
    num_missed: int
    num_false: int
    metrics: Mapping[str, MetricSummary]

    @property
    def dice(self) -> MetricSummary:
        """That of Dice; nothing where it was not asked for."""
        return self.metrics.get("dice", NOTHING)


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """All classes, by value, and for each metric the mean of the classes' means."""

    classes: tuple[ClassSummary, ...]
    overall: Mapping[str, MeanScore]

    @property
    def mean_dice(self) -> float | None:
        """Mean of the classes' mean Dice; None where no Volume holds any class."""
        return self.overall.get("dice", MeanScore(None)).mean


def summarise(
    scores: Iterable[Score] | pa.Table,
    *,
    metrics: Sequence[Metric] = METRICS,
    bootstrap: BootstrapSpec = NO_BOOTSTRAP,
) -> ScoreSummary:
    """The summary of `scores`, or of their table."""
    table = scores if isinstance(scores, pa.Table) else scores_table(scores)
    if not table.num_rows:
        return ScoreSummary((), {})
    grid = _Grid.of(table)
    by_column: dict[str, list[MetricSummary]] = {}
    overall = {}
    for column in (name for metric in metrics for name in COLUMNS[metric]):
        values = grid.values(table.column(column))
        intervals = intervals_of_means(values, **bootstrap.model_dump())
        by_column[column] = [
            _summarise(values[:, k], interval) for k, interval in enumerate(intervals.columns)
        ]
        means = [one.mean for one in by_column[column] if one.mean is not None]
        overall[column] = MeanScore(float(np.mean(means)) if means else None, intervals.overall)
    classes = tuple(
        grid.class_summary(table, k, {column: row[k] for column, row in by_column.items()})
        for k in range(len(grid.class_values))
    )
    return ScoreSummary(classes, overall)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Which Volume and which class each row of the table is of."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    num_volumes: int
    class_values: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> _Grid:
        volumes = table.column("volume_id").combine_chunks().dictionary_encode()
        values, columns = np.unique(table.column("class_value").to_numpy(), return_inverse=True)
        return cls(volumes.indices.to_numpy(), columns, len(volumes.dictionary), values)

    def values(self, column: pa.ChunkedArray) -> Values:
        """`column` as (Volumes, classes), NaN where it has no finite value."""
        values = np.full((self.num_volumes, len(self.class_values)), np.nan)
        known = pc.fill_null(column, float("nan")).to_numpy()
        values[self.rows, self.columns] = np.where(np.isfinite(known), known, np.nan)
        return values

    def class_summary(
        self, table: pa.Table, k: int, metrics: Mapping[str, MetricSummary]
    ) -> ClassSummary:
        rows = table.filter(pa.array(self.columns == k))
        ours, theirs = (
            pc.fill_null(rows.column(name), 0).to_numpy() > 0
            for name in ("predicted_voxels", "true_voxels")
        )
        return ClassSummary(
            class_value=int(self.class_values[k]),
            class_name=rows.column("class_name")[0].as_py(),
            num_scored=int((ours | theirs).sum()),
            num_empty=int((~ours & ~theirs).sum()),
            num_missed=int((theirs & ~ours).sum()),
            num_false=int((ours & ~theirs).sum()),
            metrics=metrics,
        )


def _summarise(values: Values, interval: Interval | None) -> MetricSummary:
    known = values[~np.isnan(values)]
    if not known.size:
        return NOTHING
    return MetricSummary(
        mean=float(known.mean()),
        interval=interval,
        std=float(known.std(ddof=1)) if known.size > 1 else 0.0,
        median=float(np.median(known)),
        min=float(known.min()),
        max=float(known.max()),
        num=int(known.size),
    )
