"""Metrics of the work itself, read from the registry as a scrape would."""

from __future__ import annotations

import math

from unet_batch.monitoring.events import JobFinished, JobStarted, StageTimed, VolumeFinished
from unet_batch.monitoring.metrics import JobMetrics
from unet_batch.monitoring.tally import Tally

LABELS = {"job": "j", "model": "liver", "dataset": "ct"}


class Clock:
    """A clock that stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def value(metrics: JobMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"unet_batch_{name}", LABELS | labels)


def started(clock: Clock) -> JobMetrics:
    metrics = JobMetrics(Tally(clock))
    metrics(JobStarted("j", "segment", "liver", 4, num_voxels=4000, dataset="ct"))
    return metrics


def test_the_time_left_is_unknown_at_first_and_then_follows_the_speed() -> None:
    clock = Clock()
    metrics = started(clock)
    assert math.isnan(value(metrics, "job_remaining_seconds") or 0)
    clock.now = 10
    metrics(VolumeFinished("a", "done", num_voxels=1000))
    assert value(metrics, "job_remaining_seconds") == 30
    assert value(metrics, "job_done_ratio") == 0.25
    metrics(JobFinished("j", 10))
    assert value(metrics, "job_remaining_seconds") == 0


def test_a_quarantined_volume_counts_under_its_kind_of_reason() -> None:
    metrics = started(Clock())
    assert value(metrics, "volumes_quarantined_total", cause="voxels") == 0
    metrics(VolumeFinished("a", "quarantined", "9 voxels are NaN or infinite"))
    assert value(metrics, "volumes_quarantined_total", cause="voxels") == 1


def test_the_largest_replica_is_remembered_within_a_job() -> None:
    metrics = started(Clock())
    for size in (5, 9, 7):
        metrics(StageTimed("predict", 1.0, peak_rss_bytes=size))
    assert value(metrics, "replica_peak_rss_bytes") == 9
    metrics(JobStarted("j", "segment", "liver", 1, dataset="ct"))
    metrics(StageTimed("predict", 1.0, peak_rss_bytes=3))
    assert value(metrics, "replica_peak_rss_bytes") == 3


def test_a_job_that_has_ended_keeps_its_figures_when_the_next_begins() -> None:
    clock = Clock()
    metrics = started(clock)
    clock.now = 10
    metrics(VolumeFinished("a", "done", num_voxels=4000))
    metrics(JobFinished("j", 10))
    metrics(JobStarted("next", "report", "liver", 4, dataset="ct"))
    clock.now = 20
    assert value(metrics, "job_done_ratio") == 1
    assert value(metrics, "job_remaining_seconds") == 0
    assert value(metrics, "voxels_per_second") == 400
    assert value(metrics, "job_done_ratio", job="next") == 0
