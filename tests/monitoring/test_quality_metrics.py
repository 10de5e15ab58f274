"""Metrics of quality: live Dice of this Job only, the model's own, Volumes that stand out."""

from __future__ import annotations

import pytest

from unet_batch.monitoring.events import ArchiveChecked, JobStarted, ModelLoaded, Scored
from unet_batch.monitoring.metrics import JobMetrics


def value(metrics: JobMetrics, job: str, name: str, **labels: str) -> float | None:
    common = {"job": job, "model": "liver", "dataset": "ct"}
    return metrics.registry.get_sample_value(f"unet_batch_{name}", common | labels)


def started(job: str, metrics: JobMetrics | None = None) -> JobMetrics:
    metrics = metrics or JobMetrics()
    metrics(JobStarted(job, "segment", "liver", 2, dataset="ct"))
    return metrics


def test_the_mean_dice_is_that_of_one_job() -> None:
    metrics = started("a")
    metrics(Scored("v", "organ", 0.2))
    started("b", metrics)
    metrics(Scored("v", "organ", 0.8))
    metrics(Scored("w", "organ", 0.9))
    assert value(metrics, "b", "dice_mean", **{"class": "organ"}) == pytest.approx(0.85)
    assert value(metrics, "a", "dice_mean", **{"class": "organ"}) == pytest.approx(0.2)


def test_what_the_model_reached_stands_beside_what_it_reaches() -> None:
    metrics = started("a")
    metrics(ModelLoaded({"organ": 0.91}))
    assert value(metrics, "a", "model_dice", **{"class": "organ"}) == 0.91


def test_volumes_that_stand_out_are_counted_by_kind() -> None:
    metrics = started("a")
    metrics(ArchiveChecked(40, {"volume": 3, "missing_class": 0}))
    assert value(metrics, "a", "checked_volumes") == 40
    assert value(metrics, "a", "outlier_volumes", kind="volume") == 3
    assert value(metrics, "a", "outlier_volumes", kind="missing_class") == 0
