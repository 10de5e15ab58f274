"""TensorBoard's own reader finds the curves in the files that were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_batch.monitoring.events import JobFinished, TrainStep, Validated
from unet_batch.monitoring.tensorboard import TensorBoardLog


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard, of itself
def test_tensorboard_reads_back_every_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoardLog(tmp_path / "logs") as log:
        for step in (1, 10, 20):
            log(TrainStep(step, 20, 1 / step, 0.003, 0.25, 0.125))
        log(Validated(20, 0.875))
        log(JobFinished("a", 1.0))
    reader = EventAccumulator(str(tmp_path / "logs")).Reload()
    curves = {
        name: [(one.step, one.value) for one in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }
    assert curves.keys() == {
        "train/loss",
        "train/learning_rate",
        "time/step_seconds",
        "time/data_wait_seconds",
        "validation/dice",
    }
    assert curves["train/loss"] == [(1, 1.0), (10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    assert curves["time/step_seconds"][2] == (20, 0.25)
    assert curves["validation/dice"] == [(20, 0.875)]
