"""Runs a TrainTask on Ray Train and relays what its workers say to a Listener."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from unet_batch.errors import ReplicaError, SpecError, TrainingError, UnetBatchError
from unet_batch.monitoring.events import Listener
from unet_batch.planning.specs.recipe import TrainResourceSpec, WorkerRange
from unet_batch.training.mailbox import Relay
from unet_batch.training.task import TrainTask
from unet_batch.training.validation import Segmenter
from unet_batch.training.worker import Diverged, History, load_checkpoint, packed, train_worker


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """What a finished training leaves: the averaged weights, and its History."""

    weights: Mapping[str, Any]
    history: History
    num_steps: int


def run_training(
    task: TrainTask, *, segment: Segmenter, folder: Path, listen: Listener
) -> TrainOutcome:
    """Train on Ray until all steps are done; needs a connected Ray.

    `segment` predicts the Volumes of validations, on the workers.

    Checkpoints lie in `folder`, which all nodes must see. Calling again with the same task
    and folder after a crash goes on from the last checkpoint. Raises ReplicaError where
    more workers were lost than `resources.max_failures` allows, and TrainingError where the
    loss is no longer a number.
    """
    with Relay(listen) as relay:
        trainer = _make_trainer(task, segment, folder, relay.mailbox)
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _translate(error, task, folder) from error
    # mypy sees the Result of Ray Train V1, which has no such field.
    if isinstance(ended := result.return_value, Diverged):  # type: ignore[attr-defined]
        raise _diverged(ended)
    if result.checkpoint is None:
        raise ReplicaError(f"the training in {folder} ended without a checkpoint")
    with result.checkpoint.as_directory() as saved_folder:
        saved = load_checkpoint(Path(saved_folder))
    learner = saved["learner"]
    return TrainOutcome(learner["averaged"], History(**saved["history"]), learner["step"])


def cpus_per_worker(resources: TrainResourceSpec, nodes: list[dict[str, Any]]) -> int:
    """CPUs of each worker: as asked, or an even share of what `nodes` (`ray.nodes()`) have.

    Where workers come and go, a share is that of as many as there may be. Raises SpecError
    where as many as there must be cannot be placed.
    """
    cpus = [int(one["Resources"].get("CPU", 0)) for one in nodes if one["Alive"]]
    most, fewest = resources.most_workers, resources.fewest_workers
    if resources.cpus_per_worker == "auto":
        share = max(min(sum(cpus) // most, max(cpus, default=0)), 1)
    else:
        share = resources.cpus_per_worker
    if sum(one // share for one in cpus) < fewest:
        raise SpecError(
            f"resources: {fewest} workers of {share} CPUs do not fit on nodes of"
            f" {cpus} CPUs; lower resources.workers or resources.cpus_per_worker"
        )
    return share


def scaling_config(resources: TrainResourceSpec, num_cpus: int) -> ray.train.ScalingConfig:
    """How many workers of `num_cpus` CPUs Ray Train runs; with a range, as many as it can."""
    use_gpu = resources.gpus_per_worker > 0
    per_worker: dict[str, float] = {"CPU": num_cpus}
    if use_gpu:
        per_worker["GPU"] = resources.gpus_per_worker
    # mypy sees the ScalingConfig of Ray Train V1, which knows no range.
    workers: Any = resources.workers
    if isinstance(workers, WorkerRange):
        workers = (workers.min, workers.max)
    return ray.train.ScalingConfig(
        num_workers=workers, use_gpu=use_gpu, resources_per_worker=per_worker
    )


def _make_trainer(task: TrainTask, segment: Segmenter, folder: Path, mailbox: Any) -> TorchTrainer:
    resources = task.spec.resources
    num_cpus = cpus_per_worker(resources, ray.nodes())  # type: ignore[no-untyped-call]
    config = {"work": packed(task, segment), "num_threads": num_cpus, "mailbox": mailbox}
    return TorchTrainer(
        # mypy sees Ray Train V1, whose workers return nothing.
        train_worker,  # type: ignore[arg-type]
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker > 0 else "gloo"),
        scaling_config=scaling_config(resources, num_cpus),
        run_config=ray.train.RunConfig(
            name=_run_name(task),
            storage_path=str(folder.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            # mypy sees the RunConfig of Ray Train V1, which ray 2.60 no longer uses.
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
    )


def _run_name(task: TrainTask) -> str:
    """Names the run by what decides its result, so that only the same training is resumed."""
    learnt = [(one, content, task.truth_keys[one]) for one, content in task.data_hashes.items()]
    content = (task.spec.digest(), sorted(learnt))
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _diverged(ended: Diverged) -> TrainingError:
    return TrainingError(
        f"the loss is {ended.loss} at step {ended.step}: the training has diverged; lower"
        " training.learning_rate or training.gradient_clip, or set training.precision=fp32,"
        " and look for scans of odd intensities"
    )


def _translate(
    error: ray.train.TrainingFailedError, task: TrainTask, folder: Path
) -> UnetBatchError:
    """Our own error where a worker raised one, else a ReplicaError that says what was lost."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, UnetBatchError):
            return cause
    return ReplicaError(
        f"the training lost workers more than {task.spec.resources.max_failures} times"
        f" ({error}); the same command goes on from the last checkpoint in {folder}"
    )
