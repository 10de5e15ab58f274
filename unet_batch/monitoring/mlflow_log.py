"""MlflowRun: one training as a run of MLflow, where `.[mlflow]` is installed.

The client is used rather than MLflow's global state, so that trainings in one process do not
meet, and the tracking address is said once, in the Spec.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unet_batch.errors import SpecError
from unet_batch.monitoring.events import Event, TrainStep, Validated

_BATCH = 500
"""Metrics sent at once; MLflow takes up to 1,000."""

_MAX_VALUE = 500
"""Characters of a parameter; MLflow refuses longer ones with some of its stores."""


class MlflowRun:
    """A Listener that tells an MLflow server, or a folder, of a training.

    Enter it before the training. The run ends FINISHED, or FAILED where an exception ended it.
    """

    def __init__(self, tracking: str, *, experiment: str, name: str) -> None:
        self._tracking, self._experiment, self._name = tracking, experiment, name
        self._pending: list[Any] = []

    def __enter__(self) -> Self:
        self._client = _client(self._tracking)
        known = self._client.get_experiment_by_name(self._experiment)
        number = known.experiment_id if known else self._client.create_experiment(self._experiment)
        self._run = self._client.create_run(number, run_name=self._name).info.run_id
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._client.set_terminated(self._run, "FAILED" if error else "FINISHED")

    def __call__(self, event: Event) -> None:
        """Note what one event says."""
        match event:
            case TrainStep():
                self._note("loss", event.loss, event.step)
                self._note("learning_rate", event.learning_rate, event.step)
                self._note("step_seconds", event.step_seconds, event.step)
                self._note("data_wait_seconds", event.data_wait_seconds, event.step)
            case Validated():
                self._note("dice", event.dice, event.step)

    def log_parameters(self, spec: Mapping[str, Any]) -> None:
        """The fields of a Spec, nested ones as `training.steps`."""
        from mlflow.entities import Param  # noqa: PLC0415 (an optional package)

        params = [Param(key, str(value)[:_MAX_VALUE]) for key, value in _flat(spec)]
        for start in range(0, len(params), 100):
            self._client.log_batch(self._run, params=params[start : start + 100])

    def log_result(self, scores: Mapping[str, float], step: int, folder: Path) -> None:
        """The final scores, and the files of `folder`."""
        for name, score in scores.items():
            self._note(f"final.{name}", score, step)
        self._flush()
        self._client.log_artifacts(self._run, str(folder))

    def _note(self, name: str, value: float, step: int) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 (an optional package)

        self._pending.append(Metric(name, value, int(time.time() * 1000), step))
        if len(self._pending) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._client.log_batch(self._run, metrics=self._pending)
            self._pending = []


def _client(tracking: str) -> Any:
    try:
        from mlflow.tracking import MlflowClient  # noqa: PLC0415 (an optional package)
    except ImportError as error:
        raise SpecError(
            "tracking.mlflow is set, but MLflow is not installed: pip install 'unet-batch[mlflow]'"
        ) from error
    return MlflowClient(tracking_uri=tracking)


def _flat(spec: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every leaf of nested mappings under a dotted name."""
    leaves: list[tuple[str, Any]] = []
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            leaves += _flat(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", value))
    return leaves
