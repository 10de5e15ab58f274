"""What each Ray Train worker does: read, learn, validate, report; resume where it must."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import get_device, prepare_model

from unet_batch.models.networks import build_network
from unet_batch.models.process import tune_process
from unet_batch.monitoring.events import TrainStep, Validated
from unet_batch.storage.archive import open_archive
from unet_batch.training.learner import Learner
from unet_batch.training.sampling import PatchSampler, ReadAhead
from unet_batch.training.task import TrainTask
from unet_batch.training.validation import mean_dice, score_volumes
from unet_batch.training.volumes import MemoryBudget, TrainingVolume, open_training_volumes

CHECKPOINT_FILE = "learner.pt"


@dataclass
class History:
    """What a training remembers over restarts: losses and scores by step."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    dice: list[tuple[int, float]] = field(default_factory=list)
    volume_dice: dict[str, list[float]] = field(default_factory=dict)


def train_worker(config: dict[str, Any]) -> None:
    """Train on this worker's share of the batches until `training.steps` are done.

    `config` holds the `task`, this worker's `num_threads`, and the `mailbox` for events.
    """
    tune_process(min(config["num_threads"], os.cpu_count() or 1))
    worker = _Worker(config["task"], config["mailbox"])
    worker.resume()
    worker.run()


class _Worker:
    """One rank's training: the Learner, its data, and where it reports to."""

    def __init__(self, task: TrainTask, mailbox: Any) -> None:
        context = ray.train.get_context()
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        self._task, self._mailbox = task, mailbox
        self._spec = task.spec
        self._learner = _make_learner(task)
        budget = MemoryBudget(self._spec.resources.cache)
        self._train = _open_volumes(task, task.split.train, budget)
        self._held_back = _open_volumes(task, task.split.held_back, budget)
        self._history = History()

    def resume(self) -> None:
        """Go on from the run's last checkpoint, if there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            saved = load_checkpoint(Path(folder))
        self._learner.restore(saved["learner"])
        self._history = History(**saved["history"])

    def run(self) -> None:
        """All steps that are left, with their reports, validations and checkpoints."""
        training = self._spec.training
        sampler = PatchSampler(self._train, self._spec, rank=self._rank)
        first = self._learner.step + 1
        depth = self._spec.resources.read_ahead
        with ReadAhead(sampler.batch, first=first, last=training.steps, depth=depth) as ahead:
            for step in range(first, training.steps + 1):
                self._advance(ahead)
                is_last = step == training.steps
                if is_last or (training.validate_every and step % training.validate_every == 0):
                    self._validate(everything=is_last)
                if is_last or step % training.checkpoint_every == 0:
                    self._checkpoint()

    def _advance(self, ahead: ReadAhead) -> None:
        start = time.perf_counter()
        batch = ahead.next()
        waited = time.perf_counter() - start
        rate = self._learner.learning_rate
        loss = self._learner.learn(batch)
        step, training = self._learner.step, self._spec.training
        if self._rank == 0 and (step % training.log_every == 0 or step in {1, training.steps}):
            self._history.losses.append((step, loss))
            seconds = time.perf_counter() - start
            event = TrainStep(step, training.steps, loss, rate, seconds, waited)
            self._mailbox.post.remote(event)

    def _validate(self, *, everything: bool) -> None:
        """Score the held-back Volumes, each rank its share; the averaged weights predict."""
        limit = len(self._held_back) if everything else self._spec.training.validate_volumes
        share = self._held_back[:limit][self._rank :: self._world_size]
        scores = score_volumes(
            self._learner.averaged,
            share,
            roi=self._spec.roi,
            num_classes=len(self._task.classes),
            device=self._learner.device,
            autocast=self._learner.autocast(),
        )
        scores = _gather(scores, self._world_size)
        if not scores:
            return
        dice, _ = mean_dice(list(scores.values()))
        self._history.dice.append((self._learner.step, dice))
        if everything:
            self._history.volume_dice = scores
        if self._rank == 0:
            self._mailbox.post.remote(Validated(self._learner.step, dice))

    def _checkpoint(self) -> None:
        """Hand the run a checkpoint; every rank calls this, rank 0 writes."""
        metrics = {"step": self._learner.step}
        if self._rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            content = {"learner": self._learner.state(), "history": vars(self._history)}
            torch.save(content, Path(folder) / CHECKPOINT_FILE)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """What `_checkpoint` wrote: `learner` and `history`. Tensors and plain values only."""
    content = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
    return dict(content)


def _make_learner(task: TrainTask) -> Learner:
    spec = task.spec
    torch.manual_seed(spec.training.seed)
    network = build_network(
        spec.network.name,
        spatial_dims=spec.network.spatial_dims,
        in_channels=len(task.channels),
        out_channels=len(task.classes),
        arguments=spec.network.arguments,
    )
    return Learner(
        network,
        spec.training,
        spatial_dims=spec.network.spatial_dims,
        device=get_device(),
        wrap=lambda plain: prepare_model(plain, move_to_device=False),
    )


def _open_volumes(
    task: TrainTask, ids: tuple[str, ...], budget: MemoryBudget
) -> list[TrainingVolume]:
    return open_training_volumes(
        open_archive(task.archive_url),
        ids,
        truth=task.spec.truth,
        classes=task.classes,
        intensity=task.spec.intensity,
        budget=budget,
        grid=task.grid,
    )


def _gather(scores: dict[str, list[float]], world_size: int) -> dict[str, list[float]]:
    """The scores of all ranks, by Volume id."""
    if world_size == 1:
        return scores
    parts: list[dict[str, list[float]]] = [{} for _ in range(world_size)]
    torch.distributed.all_gather_object(parts, scores)
    return {one: part[one] for part in parts for one in part}
