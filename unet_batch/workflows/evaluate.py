"""evaluate: every Volume's scores against a truth as a table, their summary, and what is odd."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from math import nan

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from unet_batch.errors import SpecError
from unet_batch.evaluation.bootstrap import Interval
from unet_batch.evaluation.measuring import Scoring
from unet_batch.evaluation.scores import ScoreRows
from unet_batch.evaluation.summary import ClassSummary, MeanScore, ScoreSummary, summarise
from unet_batch.monitoring.events import (
    ArchiveChecked,
    JobFinished,
    JobStarted,
    Listener,
    Outcome,
    Scored,
    VolumeFinished,
    ignore,
)
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.storage.archive import open_archive
from unet_batch.storage.stores import normalize_url, open_store
from unet_batch.workflows.checking import ArchiveCheck, CheckedVolume
from unet_batch.workflows.dask_window import default_window, require_ray
from unet_batch.workflows.pairs import PairStream
from unet_batch.workflows.scoring import ScoredVolume, score_pairs

_SUFFIXES = (".parquet", ".csv")


@dataclass(frozen=True, slots=True)
class EvaluateSummary:
    """How good the Labels are, and which Volumes could not be scored.

    Attributes
    ----------
    table: address of the file with a row for each Volume and class.
    classes: a summary of each class, by value.
    overall: for each metric the mean of the classes' means.
    mean_dice: that of Dice; None where no Volume holds any class, or without a truth.
    without_labels, without_truth: Volumes that lack one of the two.
    failed: Volumes whose masks could not be compared, and why.
    odd: what stands out without a truth, the gravest first; empty with one.
    """

    archive: str
    labels: str
    truth: str | None
    table: str
    classes: tuple[ClassSummary, ...]
    overall: dict[str, MeanScore]
    mean_dice: float | None
    mean_dice_interval: Interval | None
    tolerance_mm: float
    num_scored: int
    without_labels: tuple[str, ...]
    without_truth: tuple[str, ...]
    failed: dict[str, str]
    seconds: float
    odd: tuple[CheckedVolume, ...] = ()


@dataclass(slots=True)
class _Results:
    """What has come in so far."""

    check: ArchiveCheck | None
    failed: dict[str, str] = field(default_factory=dict)
    rows: ScoreRows = field(default_factory=ScoreRows)
    num_scored: int = 0

    def add(self, scored: ScoredVolume) -> None:
        self.rows.add(scored.scores)
        if scored.reason:
            self.failed[scored.pair.info.id] = scored.reason
            return
        self.num_scored += 1
        if self.check:
            self.check.add(scored)


def evaluate(spec: EvaluateSpec, *, listen: Listener = ignore) -> EvaluateSummary:
    """Score `spec.labels` against `spec.truth` for all Volumes that have both.

    Without a truth, the masks' volumes are the table, and what is odd about them is told. Ray
    must be running. Raises SpecError where no Volume has both, ReplicaError without Ray,
    StoreError where the Archive cannot be read or the table not be written.
    """
    require_ray()
    started = time.monotonic()
    archive = open_archive(spec.archive)
    stream = PairStream(
        archive, spec.volumes, labels=spec.labels, truth=spec.truth, where=spec.where
    )
    table_url = _table_url(spec, archive.url)
    listen(_started(spec, stream, archive.name))
    results = _score(spec, stream, listen)
    table = results.rows.table(_facts(spec))
    _write_table(table, table_url)
    summary = _summarise(spec, table)
    seconds = time.monotonic() - started
    listen(JobFinished(_job(spec), seconds))
    dice = summary.overall.get("dice", MeanScore(None))
    return EvaluateSummary(
        archive=archive.url,
        labels=spec.labels,
        truth=spec.truth,
        table=table_url,
        classes=summary.classes,
        overall=dict(summary.overall),
        mean_dice=dice.mean,
        mean_dice_interval=dice.interval,
        tolerance_mm=spec.tolerance_mm,
        num_scored=results.num_scored,
        without_labels=tuple(stream.without_labels),
        without_truth=tuple(stream.without_truth),
        failed=dict(sorted((stream.failed | results.failed).items())),
        seconds=seconds,
        odd=results.check.odd() if results.check else (),
    )


def _job(spec: EvaluateSpec) -> str:
    return f"evaluate-{spec.digest()}"


def _started(spec: EvaluateSpec, stream: PairStream, dataset: str) -> JobStarted:
    volumes, voxels = stream.count()
    return JobStarted(
        _job(spec), "evaluate", spec.labels, volumes, num_voxels=voxels, dataset=dataset
    )


def _score(spec: EvaluateSpec, stream: PairStream, listen: Listener) -> _Results:
    check = None if spec.truth else ArchiveCheck()
    results = _Results(check)
    window = spec.window or default_window()
    for scored in score_pairs(stream, window=window, scoring=Scoring.of(spec)):
        _tell(scored, listen)
        results.add(scored)
    for one in stream.left_out():
        listen(one)
    if check:
        listen(ArchiveChecked(results.num_scored, check.count_kinds()))
    return results


def _tell(scored: ScoredVolume, listen: Listener) -> None:
    info = scored.pair.info
    for score in scored.scores if scored.pair.truth else ():
        dice = nan if score.dice is None else score.dice
        listen(Scored(info.id, score.class_name, dice))
    outcome: Outcome = "quarantined" if scored.reason else "done"
    listen(VolumeFinished(info.id, outcome, scored.reason, scored.seconds, info.num_voxels))


def _summarise(spec: EvaluateSpec, table: pa.Table) -> ScoreSummary:
    if spec.truth is None:
        return ScoreSummary((), {})
    return summarise(table, metrics=spec.metrics, bootstrap=spec.bootstrap)


def _facts(spec: EvaluateSpec) -> dict[str, object]:
    """What a reader of the table needs to know of its columns, kept in its schema."""
    return {
        "labels": spec.labels,
        "truth": spec.truth or "",
        "metrics": ",".join(spec.metrics),
        "tolerance_mm": spec.tolerance_mm,
    }


def _table_url(spec: EvaluateSpec, archive_url: str) -> str:
    if spec.out is None:
        against = f"_vs_{spec.truth}" if spec.truth else ""
        return f"{archive_url}/evaluations/{spec.labels}{against}.parquet"
    if not spec.out.endswith(_SUFFIXES):
        raise SpecError(f"out: expected a path that ends in .parquet or .csv, got {spec.out!r}")
    return normalize_url(spec.out)


def _write_table(table: pa.Table, url: str) -> None:
    buffer = io.BytesIO()
    (pa_csv.write_csv if url.endswith(".csv") else pq.write_table)(table, buffer)
    folder, _, name = url.rpartition("/")
    open_store(folder or "/").put(name, buffer.getvalue())
