"""TensorBoardLog: a training's curves as TensorBoard events, written while it goes on."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboardX import SummaryWriter

from unet_batch.monitoring.events import Event, TrainStep, Validated


class TensorBoardLog:
    """A Listener that writes event files to `folder`, to be seen with `tensorboard --logdir`.

    A step that is told twice appears twice; TensorBoard shows the later one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        self._writer = SummaryWriter(str(self._folder), flush_secs=10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def __call__(self, event: Event) -> None:
        """Write what one event says."""
        match event:
            case TrainStep():
                self._write("train/loss", event.loss, event.step)
                self._write("train/learning_rate", event.learning_rate, event.step)
                self._write("time/step_seconds", event.step_seconds, event.step)
                self._write("time/data_wait_seconds", event.data_wait_seconds, event.step)
            case Validated():
                self._write("validation/dice", event.dice, event.step)

    def _write(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
