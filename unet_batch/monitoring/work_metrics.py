"""What a Job does: Volumes by outcome, voxels, seconds by stage, Replicas, the time left."""

from __future__ import annotations

from math import nan

from unet_batch.monitoring.causes import CAUSES, cause_of
from unet_batch.monitoring.events import (
    Event,
    JobFinished,
    JobStarted,
    QueueChanged,
    ReplicaLost,
    StageTimed,
    VolumeFinished,
)
from unet_batch.monitoring.series import Series
from unet_batch.monitoring.tally import Tally

OUTCOMES = ("done", "skipped", "quarantined", "cancelled")


class JobFamilies:
    """A Listener: that a Job runs, how far it is, and when anything last happened."""

    def __init__(self, series: Series, tally: Tally) -> None:
        self._series, self._tally = series, tally
        gauge = series.gauge
        self._info = gauge("job_info", "Always 1; the Job's workflow as `kind`.", "kind")
        self._running = gauge("job_running", "1 while the Job runs, 0 once it has ended.")
        self._started = gauge("job_started_timestamp_seconds", "When the Job began, Unix time.")
        self._seconds = gauge("job_duration_seconds", "How long the Job took; set at its end.")
        self._left = gauge("job_remaining_seconds", "Time left at this speed; NaN: not known.")
        self._done = gauge("job_done_ratio", "Share of the Job that is settled, 0 to 1.")
        self._last_event = gauge("last_event_timestamp_seconds", "When anything last happened.")

    def __call__(self, event: Event) -> None:
        """Add one event."""
        of = self._series.of
        match event:
            case JobStarted():
                self._start(event)
            case JobFinished():
                of(self._seconds).set(event.seconds)
                of(self._running).set(0)
                self._freeze()
        of(self._last_event).set_to_current_time()

    def _start(self, event: JobStarted) -> None:
        of = self._series.of
        of(self._info, event.kind).set(1)
        of(self._running).set(1)
        of(self._started).set_to_current_time()
        of(self._left).set_function(lambda: _or_nan(self._tally.progress().seconds_left))
        of(self._done).set_function(lambda: _or_nan(self._tally.progress().share_done))

    def _freeze(self) -> None:
        """Keep what is read from the Tally: the next Job of this process has it from now on."""
        progress = self._tally.progress()
        left, done = _or_nan(progress.seconds_left), _or_nan(progress.share_done)
        self._series.of(self._left).set_function(lambda: left)
        self._series.of(self._done).set_function(lambda: done)


class WorkFamilies:
    """A Listener: Volumes, tiles, voxels, bytes and worker seconds of a Job."""

    def __init__(self, series: Series, tally: Tally) -> None:
        self._series, self._tally = series, tally
        self._counted_voxels, self._peak_bytes = 0, 0
        self._define_volumes()
        self._define_work()
        self._define_replicas()

    def __call__(self, event: Event) -> None:
        """Add one event; the Tally has it already."""
        match event:
            case JobStarted():
                self._start(event)
            case StageTimed():
                self._add_stage(event)
            case VolumeFinished():
                self._finish_volume(event)
            case QueueChanged():
                self._set_queue(event)
            case ReplicaLost():
                self._series.of(self._replicas_lost).inc()
            case JobFinished():
                rate = self._tally.progress().voxels_per_second
                self._series.of(self._rate).set_function(lambda: rate)
        self._count_voxels()

    def _define_volumes(self) -> None:
        gauge, counter = self._series.gauge, self._series.counter
        self._volumes_planned = gauge("volumes_planned", "Volumes of the Job.")
        self._volumes = counter("volumes_total", "Volumes that reached an outcome.", "outcome")
        self._quarantined = counter(
            "volumes_quarantined_total",
            "Volumes that were quarantined, by kind of reason.",
            "cause",
        )
        self._tiles_planned = gauge("tiles_planned", "Tiles the Plan holds, each once.")
        self._voxels_planned = gauge("voxels_planned", "Voxels of all Volumes of the Job.")

    def _define_work(self) -> None:
        gauge, counter = self._series.gauge, self._series.counter
        self._tiles = counter("tiles_predicted_total", "Tiles that went through the network.")
        self._skipped = counter("tiles_skipped_total", "Tiles skipped: only background in them.")
        self._voxels = counter("voxels_total", "Voxels of scans that were finished.")
        self._rate = gauge("voxels_per_second", "Voxels finished a second, over the last minute.")
        self._stage_seconds = counter("stage_seconds_total", "Worker seconds, by stage.", "stage")
        self._bytes = counter("bytes_total", "Bytes read or written, by stage.", "stage")
        self._depth = gauge("queue_depth", "Pieces of work in flight, by stage.", "stage")

    def _define_replicas(self) -> None:
        gauge, counter = self._series.gauge, self._series.counter
        self._replicas = gauge("replicas", "Replicas, busy or idle.", "state")
        self._replicas_lost = counter("replicas_lost_total", "Replicas that died.")
        self._peak_rss = gauge("replica_peak_rss_bytes", "Most memory that any Replica held.")

    def _start(self, event: JobStarted) -> None:
        of = self._series.of
        self._counted_voxels, self._peak_bytes = 0, 0
        of(self._volumes_planned).set(event.num_volumes)
        of(self._tiles_planned).set(event.num_tiles)
        of(self._voxels_planned).set(event.num_voxels)
        for family in (self._tiles, self._skipped, self._voxels, self._replicas_lost):
            of(family)  # a series that begins at 0 has a rate from its first increase on
        for outcome in OUTCOMES:
            of(self._volumes, outcome)
        for cause in CAUSES:
            of(self._quarantined, cause)
        of(self._rate).set_function(lambda: self._tally.progress().voxels_per_second)

    def _add_stage(self, event: StageTimed) -> None:
        of = self._series.of
        of(self._stage_seconds, event.stage).inc(event.seconds)
        of(self._bytes, event.stage).inc(event.num_bytes)
        if event.stage == "predict":
            of(self._tiles).inc(event.num_tiles)
            of(self._skipped).inc(event.num_skipped)
            self._peak_bytes = max(self._peak_bytes, event.peak_rss_bytes)
            of(self._peak_rss).set(self._peak_bytes)

    def _finish_volume(self, event: VolumeFinished) -> None:
        self._series.of(self._volumes, event.outcome).inc()
        if event.outcome == "quarantined":
            self._series.of(self._quarantined, cause_of(event.reason)).inc()

    def _set_queue(self, event: QueueChanged) -> None:
        of = self._series.of
        for stage, depth in event.in_flight.items():
            of(self._depth, stage).set(depth)
        of(self._replicas, "busy").set(event.replicas_busy)
        of(self._replicas, "idle").set(event.replicas_idle)

    def _count_voxels(self) -> None:
        num_voxels = self._tally.num_voxels
        self._series.of(self._voxels).inc(num_voxels - self._counted_voxels)
        self._counted_voxels = num_voxels


def _or_nan(value: float | None) -> float:
    return nan if value is None else value
