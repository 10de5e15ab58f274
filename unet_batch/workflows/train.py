"""train: an Archive with truth becomes a Bundle."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from unet_batch.evaluation.scores import Score
from unet_batch.inference.engine import Frame
from unet_batch.inference.head import Head
from unet_batch.inference.whole_volumes import WholeVolumes
from unet_batch.models.bundle import Bundle, BundleConfig, save_bundle
from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    Listener,
    NetworkDerived,
    ignore,
)
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.storage.archive import open_archive
from unet_batch.training.run import TrainOutcome, run_training
from unet_batch.training.task import TrainTask, plan_training
from unet_batch.workflows.training_record import (
    TrainingRecord,
    named_scores,
    summarise_scores,
)


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training did.

    Attributes
    ----------
    scores: means over the held-back Volumes, such as `mean_dice` and `dice.<class>`;
        `score_intervals` between what they lie.
    best_step: the step whose weights were kept, where early stopping chose them.
    losses: (step, loss) of the reported steps; `dice`: (step, mean Dice) of each validation.
    network_reasons: why network, roi and batch size are what they are, with `network.name: auto`.
    """

    bundle: str
    num_steps: int
    seconds: float
    final_loss: float
    train_volumes: tuple[str, ...]
    held_back_volumes: tuple[str, ...]
    scores: dict[str, float]
    score_intervals: dict[str, tuple[float, float]]
    best_step: int | None
    losses: tuple[tuple[int, float], ...]
    dice: tuple[tuple[int, float], ...]
    network_reasons: tuple[str, ...] = ()


def train(spec: TrainSpec, *, listen: Listener = ignore) -> TrainSummary:
    """Train a network on the Volumes that have `spec.truth`, and write the Bundle `spec.out`.

    Ray must be running. Raises SpecError before any work where the Archive, the network and
    the Spec do not fit together, and ReplicaError where too many workers were lost.
    """
    start = time.monotonic()
    out = Path(spec.out)
    name = _bundle_name(out)
    archive = open_archive(spec.archive)
    task = plan_training(archive, spec)
    with TrainingRecord(spec, name, listen=listen) as record:
        record(JobStarted(name, "train", name, len(task.split.train), dataset=archive.name))
        if task.network_reasons:
            record(NetworkDerived(task.network_reasons))
        folder = out.absolute().parent / f".{out.name}.training"
        outcome = run_training(task, segment=_segmenter(task), folder=folder, listen=record)
        bundle = _write_bundle(name, out, task, outcome, record)
    shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    listen(JobFinished(name, seconds))
    return TrainSummary(
        bundle=str(bundle.path),
        num_steps=outcome.num_steps,
        seconds=seconds,
        final_loss=outcome.history.losses[-1][1],
        train_volumes=task.split.train,
        held_back_volumes=task.split.held_back,
        scores=bundle.scores,
        score_intervals=bundle.score_intervals,
        best_step=outcome.history.best_step,
        losses=tuple(outcome.history.losses),
        dice=tuple(outcome.history.dice),
        network_reasons=task.network_reasons,
    )


def _segmenter(task: TrainTask) -> WholeVolumes:
    """The tile engine, for validations while the network is trained."""
    roi = task.spec.tile
    z, y, x = (1,) * (3 - len(roi)) + tuple(roi)
    is_planar = task.spec.network.spatial_dims == 2
    return WholeVolumes(
        frame=Frame(len(task.channels), len(task.classes), (z, y, x), is_planar),
        head=Head(tuple(one.value for one in task.classes), task.spec.activation),
        intensity=task.spec.intensity,
        grid=task.grid,
        batch_size=task.spec.training.num_patches,
    )


def _write_bundle(
    name: str, out: Path, task: TrainTask, outcome: TrainOutcome, record: TrainingRecord
) -> Bundle:
    volume_scores = [Score(**fields) for fields in outcome.history.volume_scores]
    scores, intervals = named_scores(summarise_scores(volume_scores, task.spec))
    config = BundleConfig(
        name=name,
        network_name=task.spec.network.name,
        network_arguments=task.spec.network.arguments,
        spatial_dims=task.spec.network.spatial_dims,
        channels=task.channels,
        roi=task.spec.tile,
        classes=task.classes,
        activation=task.spec.activation,
        intensity=task.spec.intensity,
        grid=task.grid,
        spacing_mm=task.spacing_mm,
        scores=scores,
        score_intervals=intervals,
        data_hashes=task.data_hashes,
        held_back_hashes=task.held_back_hashes,
        truth_keys=task.truth_keys,
        train_spec=task.spec.model_dump(mode="json"),
        network_reasons=task.network_reasons,
    ).trusting(trust_network=task.spec.trust_network)
    num = len(task.split.train)
    description = f"{config.network_name} trained on {num} Volumes in {outcome.num_steps} steps"
    record.write(
        config,
        description,
        volume_scores,
        losses=outcome.history.losses,
        dice=outcome.history.dice,
    )
    return save_bundle(out, config, outcome.weights, description=description)


def _bundle_name(out: Path) -> str:
    """The folder's name, made safe as a name of a Bundle."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", out.name).strip("-._") or "model"
