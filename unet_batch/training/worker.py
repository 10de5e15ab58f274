"""What each Ray Train worker does: read, learn, validate, report; resume where it must."""

from __future__ import annotations

import math
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray import cloudpickle
from ray.train.torch import get_device, prepare_model

from unet_batch.evaluation.measuring import Scoring
from unet_batch.evaluation.scores import Score
from unet_batch.models.networks import build_network
from unet_batch.models.process import tune_process
from unet_batch.monitoring.events import StoppedEarly, TrainStep, Validated
from unet_batch.storage.archive import open_archive
from unet_batch.training.batch import Batch
from unet_batch.training.early_stopping import EarlyStopping
from unet_batch.training.learner import Learner
from unet_batch.training.read_ahead import ReadAhead
from unet_batch.training.sampling import PatchSampler
from unet_batch.training.task import TrainTask
from unet_batch.training.validation import DICE, Segmenter, mean_dice, score_volumes
from unet_batch.training.volumes import MemoryBudget, TrainingVolume, open_training_volumes

CHECKPOINT_FILE = "learner.pt"


@dataclass(frozen=True, slots=True)
class Diverged:
    """Where a training ended: a step whose loss is not a number.

    A worker returns it; of an error Ray Train would try again what can only end alike.
    """

    step: int
    loss: float


@dataclass
class History:
    """What a training remembers over restarts.

    Attributes
    ----------
    losses, dice: by step.
    volume_scores: the fields of each `Score` of the held-back Volumes, at the end.
    best_step: the step whose weights are the result, where early stopping chose them.
    is_finished: whether nothing is left to do.
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    dice: list[tuple[int, float]] = field(default_factory=list)
    volume_scores: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    is_finished: bool = False


def packed(task: TrainTask, segment: Segmenter) -> bytes:
    """What a worker is to do, with the Segmenter of validations.

    Ray Train's controller unpickles what workers are given. As bytes, it need not import MONAI
    for that: a training of one worker begins seven seconds sooner on two cores.
    """
    work: bytes = cloudpickle.dumps((task, segment))  # type: ignore[no-untyped-call]
    return work


def train_worker(config: dict[str, Any]) -> Diverged | None:
    """Train on this worker's share of the batches until `training.steps` are done.

    `config` holds the `work`, as `packed`, this worker's `num_threads`, and the `mailbox` for
    events.
    """
    tune_process(min(config["num_threads"], os.cpu_count() or 1))
    task, segment = pickle.loads(config["work"])  # noqa: S301 (of `packed`, by the driver)
    worker = _Worker(task, segment, config["mailbox"])
    worker.resume()
    return worker.run()


class _Worker:
    """One rank's training: the Learner, its data, and where it reports to."""

    def __init__(self, task: TrainTask, segment: Segmenter, mailbox: Any) -> None:
        context = ray.train.get_context()
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        self._task, self._segment, self._mailbox = task, segment, mailbox
        self._spec = task.spec
        self._learner = make_learner(
            task,
            get_device(),
            rank=self._rank,
            wrap=lambda plain: prepare_model(plain, move_to_device=False),
        )
        self._early_stopping = EarlyStopping(self._spec.training.early_stopping)
        budget = MemoryBudget(self._spec.resources.cache)
        self._train = open_volumes(task, task.split.train, budget)
        self._held_back = open_volumes(task, task.split.held_back, budget)
        self._history = History()

    def resume(self) -> None:
        """Go on from the run's last checkpoint, if there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            saved = load_checkpoint(Path(folder))
        self._learner.restore(saved["learner"])
        self._early_stopping.restore(saved["early_stopping"])
        self._history = History(**saved["history"])

    def run(self) -> Diverged | None:
        """All steps that are left, with their reports, validations and checkpoints."""
        if self._history.is_finished:
            return None
        training, resources = self._spec.training, self._spec.resources
        sampler = PatchSampler(self._train, self._spec, rank=self._rank)
        first = self._learner.step + 1
        with ReadAhead(
            self._pinned(sampler.batch),
            first=first,
            last=training.steps,
            depth=resources.read_ahead,
            readers=resources.readers,
        ) as ahead:
            for step in range(first, training.steps + 1):
                if diverged := self._advance(ahead):
                    return diverged
                is_last = step == training.steps
                is_due = training.validate_every and step % training.validate_every == 0
                if is_due and (training.early_stopping or not is_last):
                    is_last = self._validate() or is_last
                if is_last:
                    break
                if step % training.checkpoint_every == 0:
                    self._checkpoint()
        self._finish()
        return None

    def _pinned(self, make: Callable[[int], Batch]) -> Callable[[int], Batch]:
        """`make`, with batches that travel to a GPU while it computes."""
        is_gpu = self._learner.device.type == "cuda"
        return (lambda step: make(step).pinned()) if is_gpu else make

    def _advance(self, ahead: ReadAhead) -> Diverged | None:
        """One step, and what all ranks find alike where the loss has become NaN or infinite."""
        start = time.perf_counter()
        batch = ahead.next()
        waited = time.perf_counter() - start
        rate = self._learner.learning_rate
        loss_on_device = self._learner.learn(batch)
        step, training = self._learner.step, self._spec.training
        if step % training.log_every and step not in {1, training.steps}:
            return None
        loss = _mean(loss_on_device, self._world_size)
        if not math.isfinite(loss):
            return Diverged(step, loss)
        if self._rank == 0:
            self._history.losses.append((step, loss))
            seconds = time.perf_counter() - start
            event = TrainStep(step, training.steps, loss, rate, seconds, waited)
            self._mailbox.post.remote(event)
        return None

    def _validate(self) -> bool:
        """Note the Dice of some held-back Volumes; whether to stop early."""
        dice = self._score(self._spec.training.validate_volumes)
        if dice is None:
            return False
        step, early_stopping = self._learner.step, self._early_stopping
        if not early_stopping.observe(dice, step, self._learner.averaged):
            return False
        if self._rank == 0:
            event = StoppedEarly(step, early_stopping.best_step, early_stopping.best_dice)
            self._mailbox.post.remote(event)
        return True

    def _finish(self) -> None:
        """Score all held-back Volumes with the weights that are the result, and keep those."""
        if self._early_stopping.best_step:
            self._early_stopping.restore_best(self._learner.averaged)
            self._history.best_step = self._early_stopping.best_step
        self._score(None)
        self._history.is_finished = True
        self._checkpoint()

    def _score(self, limit: int | None) -> float | None:
        """Mean Dice of the first `limit` held-back Volumes, or of all; None if there are none.

        Each rank takes its share; the averaged weights predict, all ranks with the same.
        """
        _share_buffers(self._learner.averaged, self._world_size)
        scores = score_volumes(
            self._segment,
            self._learner.averaged,
            self._held_back[:limit][self._rank :: self._world_size],
            self._task.table,
            device=self._learner.device,
            precision=self._learner.precision,
            scoring=DICE if limit else Scoring.of(self._spec.scoring),
        )
        scores = _gather(scores, self._world_size)
        if not scores:
            return None
        every = [one for volume in scores.values() for one in volume]
        dice = mean_dice(every)
        self._history.dice.append((self._learner.step, dice))
        if limit is None:
            self._history.volume_scores = [asdict(one) for one in every]
        if self._rank == 0:
            self._mailbox.post.remote(Validated(self._learner.step, dice))
        return dice

    def _checkpoint(self) -> None:
        """Hand the run a checkpoint; every rank calls this, rank 0 writes."""
        metrics = {"step": self._learner.step}
        if self._rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            content = {
                "learner": self._learner.state(),
                "early_stopping": self._early_stopping.state(),
                "history": vars(self._history),
            }
            torch.save(content, Path(folder) / CHECKPOINT_FILE)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """What `_checkpoint` wrote: `learner` and `history`. Tensors and plain values only."""
    content = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
    return dict(content)


def make_learner(
    task: TrainTask,
    device: torch.device,
    *,
    rank: int = 0,
    wrap: Callable[[torch.nn.Module], torch.nn.Module] = lambda network: network,
) -> Learner:
    """The Learner of a task for one rank, its network initialised by the seed."""
    spec = task.spec
    torch.manual_seed(spec.training.seed)
    network = build_network(
        spec.network.name,
        spatial_dims=spec.network.spatial_dims,
        in_channels=len(task.channels),
        out_channels=len(task.classes),
        arguments=spec.network.arguments,
        trust_network=spec.trust_network,
    )
    return Learner(
        network,
        spec.training,
        task.table,
        spatial_dims=spec.network.spatial_dims,
        in_channels=len(task.channels),
        device=device,
        rank=rank,
        wrap=wrap,
    )


def open_volumes(
    task: TrainTask, ids: tuple[str, ...], budget: MemoryBudget
) -> list[TrainingVolume]:
    """The Volumes of `ids` as the task's network sees them, none of them read yet."""
    return open_training_volumes(
        open_archive(task.archive_url),
        {one: task.listed_values[one] for one in ids},
        truth=task.spec.truth,
        table=task.table,
        intensity=task.spec.intensity,
        budget=budget,
        grid=task.grid,
        foreground_by=task.spec.training.foreground_by,
        partial_labels=task.spec.partial_labels,
    )


def _mean(loss: torch.Tensor, world_size: int) -> float:
    """The mean of a scalar over all ranks."""
    if world_size > 1:
        torch.distributed.all_reduce(loss)
    return float(loss) / world_size


def _share_buffers(network: torch.nn.Module, world_size: int) -> None:
    """Have all ranks use the buffers of rank 0, which are saved.

    Weights are alike everywhere; running means of batch norms are of each rank's own patches.
    """
    if world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _gather(scores: dict[str, tuple[Score, ...]], world_size: int) -> dict[str, tuple[Score, ...]]:
    """The scores of all ranks, by Volume id."""
    if world_size == 1:
        return scores
    parts: list[dict[str, tuple[Score, ...]]] = [{} for _ in range(world_size)]
    torch.distributed.all_gather_object(parts, scores)
    return {one: part[one] for part in parts for one in part}
