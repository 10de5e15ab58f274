"""Metrics of one Job for Prometheus: events in, one registry out, on loopback or in a file.

Every series carries `job` and `model`; further labels are few and fixed (stage, outcome,
state, class). Scores of single Volumes go to Parquet, never here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
    write_to_textfile,
)

from unet_batch.errors import SpecError, StoreError
from unet_batch.monitoring.events import (
    Event,
    JobFinished,
    JobStarted,
    QueueChanged,
    ReplicaLost,
    Scored,
    StageTimed,
    TrainStep,
    Validated,
    VolumeFinished,
)
from unet_batch.monitoring.tally import Tally

DICE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
"""Finer where good models differ."""

STEP_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

AnyMetric = TypeVar("AnyMetric", Counter, Gauge, Histogram)


class JobMetrics:
    """A Listener that keeps the metrics of one Job in a registry of its own."""

    def __init__(self, tally: Tally | None = None) -> None:
        self.registry = CollectorRegistry()
        self._tally = tally or Tally()
        self._job, self._model = "", ""
        self._num_voxels = 0
        self._dice: dict[str, tuple[int, float]] = {}
        self._define_job_metrics()
        self._define_work_metrics()
        self._define_quality_metrics()

    def __call__(self, event: Event) -> None:
        """Add one event to the metrics."""
        self._tally(event)
        match event:
            case JobStarted():
                self._start(event)
            case StageTimed():
                self._add_stage(event)
            case VolumeFinished():
                self._of(self._volumes, event.outcome).inc()
            case QueueChanged():
                self._set_queue(event)
            case ReplicaLost():
                self._of(self._replicas_lost).inc()
            case Scored():
                self._add_score(event)
            case TrainStep():
                self._add_step(event)
            case Validated():
                self._of(self._validation_dice).set(event.dice)
            case JobFinished():
                self._of(self._seconds).set(event.seconds)
                self._of(self._running).set(0)
        self._of(self._last_event).set_to_current_time()
        self._count_voxels()

    def write_textfile(self, path: Path) -> None:
        """Write all metrics in Prometheus' text format, atomically (node-exporter's collector).

        Raises StoreError where `path` cannot be written.
        """
        try:
            write_to_textfile(str(path), self.registry)
        except OSError as error:
            raise StoreError(f"cannot write the metrics to {path}: {error}") from error

    def _define_job_metrics(self) -> None:
        gauge, counter = self._gauge, self._counter
        self._info = gauge("job_info", "Always 1; the Job's workflow as `kind`.", "kind")
        self._running = gauge("job_running", "1 while the Job runs, 0 once it has ended.")
        self._started = gauge("job_started_timestamp_seconds", "When the Job began, Unix time.")
        self._seconds = gauge("job_duration_seconds", "How long the Job took; set at its end.")
        self._last_event = gauge("last_event_timestamp_seconds", "When anything last happened.")
        self._volumes_planned = gauge("volumes_planned", "Volumes of the Job.")
        self._volumes = counter("volumes_total", "Volumes that reached an outcome.", "outcome")
        self._tiles_planned = gauge("tiles_planned", "Tiles the Plan holds, each once.")
        self._voxels_planned = gauge("voxels_planned", "Voxels of all Volumes of the Job.")

    def _define_work_metrics(self) -> None:
        gauge, counter = self._gauge, self._counter
        self._tiles = counter("tiles_predicted_total", "Tiles that went through the network.")
        self._voxels = counter("voxels_total", "Voxels of scans that were finished.")
        self._rate = gauge("voxels_per_second", "Voxels finished a second, over the last minute.")
        self._stage_seconds = counter("stage_seconds_total", "Worker seconds, by stage.", "stage")
        self._bytes = counter("bytes_total", "Bytes read or written, by stage.", "stage")
        self._depth = gauge("queue_depth", "Pieces of work in flight, by stage.", "stage")
        self._replicas = gauge("replicas", "Replicas, busy or idle.", "state")
        self._replicas_lost = counter("replicas_lost_total", "Replicas that died.")

    def _define_quality_metrics(self) -> None:
        gauge, counter = self._gauge, self._counter
        self._scores = Histogram(
            "unet_batch_dice",
            "Dice of the Volumes scored, by class.",
            ("job", "model", "class"),
            buckets=DICE_BUCKETS,
            registry=self.registry,
        )
        self._mean_dice = gauge("dice_mean", "Mean Dice of the Volumes scored so far.", "class")
        self._steps_planned = gauge("train_steps_planned", "Optimiser steps of the training.")
        self._steps = counter("train_steps_total", "Optimiser steps taken.")
        self._loss = gauge("train_loss", "Loss of the latest optimiser step.")
        self._learning_rate = gauge("train_learning_rate", "Learning rate of the latest step.")
        self._step_seconds = Histogram(
            "unet_batch_train_step_seconds",
            "Duration of an optimiser step, waiting for data included.",
            ("job", "model"),
            buckets=STEP_BUCKETS_S,
            registry=self.registry,
        )
        self._data_wait = counter("train_data_wait_seconds_total", "Seconds waited for patches.")
        self._validation_dice = gauge("train_validation_dice", "Mean Dice on held-back Volumes.")

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        names = ("job", "model", *labels)
        return Gauge(f"unet_batch_{name}", text, names, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        names = ("job", "model", *labels)
        return Counter(f"unet_batch_{name}", text, names, registry=self.registry)

    def _of(self, metric: AnyMetric, *labels: str) -> AnyMetric:
        return metric.labels(self._job, self._model, *labels)

    def _start(self, event: JobStarted) -> None:
        self._num_voxels = 0
        self._job, self._model = event.job, event.model
        self._of(self._info, event.kind).set(1)
        self._of(self._running).set(1)
        self._of(self._started).set_to_current_time()
        self._of(self._volumes_planned).set(event.num_volumes)
        self._of(self._tiles_planned).set(event.num_tiles)
        self._of(self._voxels_planned).set(event.num_voxels)
        self._of(self._tiles)
        self._of(self._voxels)
        self._of(self._replicas_lost)
        for outcome in ("done", "skipped", "quarantined", "cancelled"):
            self._of(self._volumes, outcome)
        self._of(self._rate).set_function(lambda: self._tally.progress().voxels_per_second)

    def _add_stage(self, event: StageTimed) -> None:
        self._of(self._stage_seconds, event.stage).inc(event.seconds)
        self._of(self._bytes, event.stage).inc(event.num_bytes)
        if event.stage == "predict":
            self._of(self._tiles).inc(event.num_tiles)

    def _set_queue(self, event: QueueChanged) -> None:
        for stage, depth in event.in_flight.items():
            self._of(self._depth, stage).set(depth)
        self._of(self._replicas, "busy").set(event.replicas_busy)
        self._of(self._replicas, "idle").set(event.replicas_idle)

    def _add_score(self, event: Scored) -> None:
        if isnan(event.dice):
            return
        count, total = self._dice.get(event.class_name, (0, 0.0))
        self._dice[event.class_name] = count, total = count + 1, total + event.dice
        self._of(self._scores, event.class_name).observe(event.dice)
        self._of(self._mean_dice, event.class_name).set(total / count)

    def _add_step(self, event: TrainStep) -> None:
        self._of(self._steps_planned).set(event.num_steps)
        self._of(self._steps).inc()
        self._of(self._loss).set(event.loss)
        self._of(self._learning_rate).set(event.learning_rate)
        self._of(self._step_seconds).observe(event.step_seconds)
        self._of(self._data_wait).inc(event.data_wait_seconds)

    def _count_voxels(self) -> None:
        num_voxels = self._tally.num_voxels
        self._of(self._voxels).inc(num_voxels - self._num_voxels)
        self._num_voxels = num_voxels


@contextmanager
def serve(metrics: JobMetrics, *, port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve `metrics` over HTTP while the context is open; yields the port (0: any free one).

    Raises SpecError where the address cannot be listened on.
    """
    try:
        server, thread = start_http_server(port, addr=address, registry=metrics.registry)
    except OSError as error:
        raise SpecError(_explain(error, port, address)) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _explain(error: OSError, port: int, address: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"metrics port {port} on {address} is in use by another program; "
            "choose another, or 0 for any free one"
        )
    return f"cannot serve metrics on {address} port {port}: {error}"
