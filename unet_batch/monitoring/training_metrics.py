"""How a training goes, and what became of a retraining and of the RayJob it ran in."""

from __future__ import annotations

from unet_batch.monitoring.events import (
    Challenged,
    Event,
    JobStarted,
    RayJobFinished,
    RetrainFinished,
    TrainStep,
    Validated,
)
from unet_batch.monitoring.series import Series

STEP_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class TrainingFamilies:
    """A Listener: loss, learning rate, step time, waiting for data, Dice while training."""

    def __init__(self, series: Series) -> None:
        self._series, self._last_step = series, 0
        gauge, counter = series.gauge, series.counter
        self._steps_planned = gauge("train_steps_planned", "Optimiser steps of the training.")
        self._steps = counter("train_steps_total", "Optimiser steps taken.")
        self._loss = gauge("train_loss", "Loss of the latest optimiser step.")
        self._learning_rate = gauge("train_learning_rate", "Learning rate of the latest step.")
        self._step_seconds = series.histogram(
            "train_step_seconds",
            "Duration of an optimiser step, waiting for data included.",
            buckets=STEP_BUCKETS_S,
        )
        self._data_wait = counter(
            "train_data_wait_seconds_total", "Seconds of those steps that were waited for patches."
        )
        self._validation_dice = gauge("train_validation_dice", "Mean Dice on held-back Volumes.")

    def __call__(self, event: Event) -> None:
        """Add one event."""
        match event:
            case JobStarted():
                self._last_step = 0
            case TrainStep():
                self._add_step(event)
            case Validated():
                self._series.of(self._validation_dice).set(event.dice)

    def _add_step(self, event: TrainStep) -> None:
        of = self._series.of
        of(self._steps_planned).set(event.num_steps)
        # Not every step is told; after a lost worker some come again and count once.
        of(self._steps).inc(max(event.step - self._last_step, 0))
        self._last_step = max(event.step, self._last_step)
        of(self._loss).set(event.loss)
        of(self._learning_rate).set(event.learning_rate)
        of(self._step_seconds).observe(event.step_seconds)
        of(self._data_wait).inc(event.data_wait_seconds)


class RetrainingFamilies:
    """A Listener: champion against challenger, and when what was decided.

    Outcomes are timestamps: Prometheus remembers them for days after the pod has gone, and an
    alert can ask how long ago the last good one was.
    """

    def __init__(self, series: Series) -> None:
        self._series = series
        self._dice = series.gauge(
            "retrain_dice", "Dice of champion and challenger on the same Volumes.", "role", "class"
        )
        self._finished = series.gauge(
            "retrain_finished_timestamp_seconds", "When a retraining last ended so.", "outcome"
        )
        self._ray_job_finished = series.gauge(
            "rayjob_finished_timestamp_seconds",
            "When a RayJob that was waited for last ended so; `kind` is its workflow.",
            "kind",
            "outcome",
        )

    def __call__(self, event: Event) -> None:
        """Add one event."""
        of = self._series.of
        match event:
            case Challenged():
                for role, dice in (("champion", event.champion), ("challenger", event.challenger)):
                    for name, value in dice.items():
                        of(self._dice, role, name).set(value)
            case RetrainFinished():
                of(self._finished, event.outcome).set_to_current_time()
            case RayJobFinished():
                of(self._ray_job_finished, event.kind, event.outcome).set_to_current_time()
