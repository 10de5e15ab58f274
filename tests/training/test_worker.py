"""The worker in this process, without a Ray cluster: Ray Train's local mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from unet_batch.errors import TrainingError
from unet_batch.monitoring.events import Event, StoppedEarly, TrainStep, Validated
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box
from unet_batch.training.task import plan_training
from unet_batch.training.worker import History, train_worker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def guess(
    network: torch.nn.Module, volumes: Sequence[Volume], **fields: object
) -> Iterator[tuple[str, Box, Any]]:
    """Nothing is found, wherever it is looked for."""
    for volume in volumes:
        box = Box.from_shape(volume.info.shape_zyx)
        yield volume.id, box, np.zeros((1, *box.shape), np.uint8)


def train(archive: Archive, folder: Path, **training: object) -> tuple[list[Event], History]:
    """All events of a training by one worker, and its last checkpoint's History."""
    spec = TrainSpec.model_validate(
        {
            "archive": archive.url,
            "truth": "truth",
            "out": "unused",
            "roi": (8, 8, 8),
            "network": {"arguments": {"channels": [2, 4], "num_res_units": 1}},
            "training": {"steps": 6, "batch_size": 2, "log_every": 1} | training,
        }
    )
    events: list[Event] = []
    mailbox = SimpleNamespace(post=SimpleNamespace(remote=events.append))
    config = {
        "task": plan_training(archive, spec),
        "segment": guess,
        "num_threads": 1,
        "mailbox": mailbox,
    }
    TorchTrainer(
        train_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=0),
        run_config=ray.train.RunConfig(storage_path=str(folder), name="run"),
    ).fit()
    return events, History()


def test_events(cubes: Callable[..., Archive], tmp_path: Path) -> None:
    events, _ = train(cubes(), tmp_path / "run", validate_every=2)
    print(events)
    print(ray.is_initialized())
