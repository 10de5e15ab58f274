"""evaluate: Dice of every class and Volume that has a truth, as a table and a summary."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import nan

import pyarrow.parquet as pq

from unet_batch.errors import SpecError
from unet_batch.evaluation.scores import (
    ClassSummary,
    Score,
    mean_over_classes,
    scores_table,
    summarise,
)
from unet_batch.monitoring.events import (
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
from unet_batch.workflows.dask_window import default_window, require_ray
from unet_batch.workflows.scoring import ScoredVolume, score_pairs, select_pairs


@dataclass(frozen=True, slots=True)
class EvaluateSummary:
    """How good the Labels are, and which Volumes could not be scored.

    Attributes
    ----------
    table: address of the Parquet file with a row for each Volume and class.
    mean_dice: mean of the classes' mean Dice; None where no Volume holds any class.
    without_labels, without_truth: Volumes that lack one of the two.
    failed: Volumes whose masks could not be compared, and why.
    """

    archive: str
    labels: str
    truth: str
    table: str
    classes: tuple[ClassSummary, ...]
    mean_dice: float | None
    num_scored: int
    without_labels: tuple[str, ...]
    without_truth: tuple[str, ...]
    failed: dict[str, str]
    seconds: float


def evaluate(spec: EvaluateSpec, *, listen: Listener = ignore) -> EvaluateSummary:
    """Score `spec.labels` against `spec.truth` for all Volumes that have both.

    Ray must be running. Raises SpecError where no Volume has both, ReplicaError without Ray,
    StoreError where the Archive cannot be read or the table not be written.
    """
    require_ray()
    started = time.monotonic()
    archive = open_archive(spec.archive)
    selection = select_pairs(
        archive, spec.volumes, labels=spec.labels, truth=spec.truth, where=spec.where
    )
    table_url = _table_url(spec, archive.url)
    job = f"evaluate-{spec.digest()}"
    voxels = sum(pair.info.num_voxels for pair in selection.pairs)
    listen(
        JobStarted(
            job,
            "evaluate",
            spec.labels,
            len(selection.pairs),
            num_voxels=voxels,
            dataset=archive.name,
        )
    )
    failed, scores = dict(selection.failed), list[Score]()
    for scored in score_pairs(selection.pairs, window=spec.window or default_window()):
        _tell(scored, listen)
        scores.extend(scored.scores)
        if scored.reason:
            failed[scored.pair.info.id] = scored.reason
    _write_table(scores, table_url)
    seconds = time.monotonic() - started
    listen(JobFinished(job, seconds))
    classes = summarise(scores)
    return EvaluateSummary(
        archive=archive.url,
        labels=spec.labels,
        truth=spec.truth,
        table=table_url,
        classes=classes,
        mean_dice=mean_over_classes(classes),
        num_scored=len({score.volume_id for score in scores}),
        without_labels=selection.without_labels,
        without_truth=selection.without_truth,
        failed=dict(sorted(failed.items())),
        seconds=seconds,
    )


def _tell(scored: ScoredVolume, listen: Listener) -> None:
    info = scored.pair.info
    for score in scored.scores:
        dice = nan if score.dice is None else score.dice
        listen(Scored(info.id, score.class_name, dice))
    outcome: Outcome = "quarantined" if scored.reason else "done"
    listen(VolumeFinished(info.id, outcome, scored.reason, scored.seconds, info.num_voxels))


def _table_url(spec: EvaluateSpec, archive_url: str) -> str:
    if spec.out is None:
        return f"{archive_url}/evaluations/{spec.labels}_vs_{spec.truth}.parquet"
    if not spec.out.endswith(".parquet"):
        raise SpecError(f"out: expected a path that ends in .parquet, got {spec.out!r}")
    return normalize_url(spec.out)


def _write_table(scores: Iterable[Score], url: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(scores_table(scores), buffer)
    folder, _, name = url.rpartition("/")
    open_store(folder or "/").put(name, buffer.getvalue())
