"""Metrics of training and retraining."""

from __future__ import annotations

import time

import pytest

from unet_batch.monitoring.events import (
    Challenged,
    JobStarted,
    RayJobFinished,
    RetrainFinished,
    TrainStep,
)
from unet_batch.monitoring.metrics import JobMetrics


def value(metrics: JobMetrics, name: str, **labels: str) -> float | None:
    common = {"job": "liver", "model": "liver", "dataset": "ct"}
    return metrics.registry.get_sample_value(f"unet_batch_{name}", common | labels)


@pytest.fixture
def metrics() -> JobMetrics:
    metrics = JobMetrics()
    metrics(JobStarted("liver", "train", "liver", 9, dataset="ct"))
    return metrics


def test_steps_that_are_not_told_count_too_and_none_counts_twice(metrics: JobMetrics) -> None:
    for step in (1, 10, 20, 15, 25):  # a lost worker went back to 15
        metrics(TrainStep(step, 100, 0.5, 1e-3, 0.2, 0.0))
    assert value(metrics, "train_steps_total") == 25


def test_champion_and_challenger_stand_side_by_side(metrics: JobMetrics) -> None:
    metrics(Challenged(champion={"organ": 0.8}, challenger={"organ": 0.85}))
    assert value(metrics, "retrain_dice", role="champion", **{"class": "organ"}) == 0.8
    assert value(metrics, "retrain_dice", role="challenger", **{"class": "organ"}) == 0.85


def test_outcomes_are_times_that_outlive_the_pod(metrics: JobMetrics) -> None:
    before = time.time()
    metrics(RetrainFinished("promoted"))
    told = value(metrics, "retrain_finished_timestamp_seconds", outcome="promoted")
    assert told is not None
    assert before <= told <= time.time()


def test_the_end_of_a_rayjob_needs_no_job_around_it() -> None:
    metrics = JobMetrics()
    metrics(RayJobFinished("retrain", "failed"))
    labels = {"job": "", "model": "", "dataset": "", "kind": "retrain", "outcome": "failed"}
    name = "unet_batch_rayjob_finished_timestamp_seconds"
    assert metrics.registry.get_sample_value(name, labels)
