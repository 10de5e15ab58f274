"""Metrics as Prometheus sees them: scraped over real HTTP, parsed with its own parser."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

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
from unet_batch.monitoring.metrics import JobMetrics, serve

JOB: tuple[Event, ...] = (
    JobStarted("seg-1", "segment", "liver", num_volumes=3, num_tiles=10, num_voxels=3000),
    QueueChanged({"read": 2, "predict": 1}, replicas_busy=1, replicas_idle=1),
    StageTimed("read", 0.5, num_bytes=2000),
    StageTimed("predict", 2.0, num_tiles=10, num_skipped=3),
    StageTimed("write", 0.25, num_bytes=500, num_voxels=1000),
    VolumeFinished("a", "done", num_voxels=1000),
    VolumeFinished("b", "quarantined", reason="NaN voxels"),
    ReplicaLost("out of memory"),
    Scored("a", "liver", 0.9),
    Scored("c", "liver", 0.7),
    Scored("c", "tumour", float("nan")),
    TrainStep(1, 200, 0.4, 1e-3, 0.3, 0.1),
    TrainStep(2, 200, 0.3, 2e-3, 0.3, 0.1),
    Validated(2, 0.8),
)


@pytest.fixture
def metrics() -> JobMetrics:
    metrics = JobMetrics()
    for event in JOB:
        metrics(event)
    return metrics


def parse(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Series by name, then by their label values other than job and model."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {
                k: v for k, v in sample.labels.items() if k not in ("job", "model", "dataset")
            }
            found.setdefault(sample.name, {})[tuple(labels.values())] = sample.value
    return found


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read(), "utf-8")


def test_a_scrape_shows_the_work_of_the_job(metrics: JobMetrics) -> None:
    with serve(metrics, port=0) as port:
        found = parse(scrape(port))
    assert found["unet_batch_tiles_planned"][()] == 10
    assert found["unet_batch_tiles_predicted_total"][()] == 10
    assert found["unet_batch_tiles_skipped_total"][()] == 3
    assert found["unet_batch_voxels_total"][()] == 1000
    assert found["unet_batch_voxels_per_second"][()] > 0
    assert found["unet_batch_volumes_total"][("done",)] == 1
    assert found["unet_batch_volumes_total"][("quarantined",)] == 1
    assert found["unet_batch_volumes_total"][("skipped",)] == 0
    assert found["unet_batch_stage_seconds_total"][("predict",)] == 2.0
    assert found["unet_batch_bytes_total"][("read",)] == 2000
    assert found["unet_batch_queue_depth"][("read",)] == 2
    assert found["unet_batch_replicas"] == {("busy",): 1, ("idle",): 1}
    assert found["unet_batch_replicas_lost_total"][()] == 1
    assert found["unet_batch_job_running"][()] == 1


def test_a_scrape_shows_dice_by_class_and_the_training(metrics: JobMetrics) -> None:
    with serve(metrics, port=0) as port:
        found = parse(scrape(port))
    assert found["unet_batch_dice_mean"] == {("liver",): pytest.approx(0.8)}
    assert found["unet_batch_dice_count"][("liver",)] == 2
    assert found["unet_batch_dice_bucket"][("liver", "0.8")] == 1
    assert found["unet_batch_train_steps_total"][()] == 2
    assert found["unet_batch_train_steps_planned"][()] == 200
    assert found["unet_batch_train_loss"][()] == 0.3
    assert found["unet_batch_train_learning_rate"][()] == 2e-3
    assert found["unet_batch_train_step_seconds_count"][()] == 2
    assert found["unet_batch_train_data_wait_seconds_total"][()] == pytest.approx(0.2)
    assert found["unet_batch_train_validation_dice"][()] == 0.8


def test_every_series_names_its_job_and_model_and_no_volume(metrics: JobMetrics) -> None:
    with serve(metrics, port=0) as port:
        text = scrape(port)
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert all(s.labels["job"] == "seg-1" and s.labels["model"] == "liver" for s in samples)
    assert all(s.name.startswith("unet_batch_") for s in samples)
    assert not any("volume" in label for s in samples for label in s.labels)


def test_work_done_after_a_scrape_is_in_the_next(metrics: JobMetrics) -> None:
    with serve(metrics, port=0) as port:
        before = parse(scrape(port))["unet_batch_voxels_total"][()]
        metrics(VolumeFinished("c", "done", num_voxels=2000))
        assert parse(scrape(port))["unet_batch_voxels_total"][()] == before + 2000


def test_two_jobs_in_one_process_do_not_mix() -> None:
    first, second = JobMetrics(), JobMetrics()
    first(JobStarted("a", "segment", "m", 1))
    second(JobStarted("b", "segment", "m", 2))
    with serve(first, port=0) as one, serve(second, port=0) as two:
        assert one != two
        assert 'job="b"' not in scrape(one)
        assert parse(scrape(two))["unet_batch_volumes_planned"][()] == 2


def test_the_port_is_free_again_after_the_job(metrics: JobMetrics) -> None:
    with serve(metrics, port=0) as port:
        pass
    with serve(metrics, port=port) as again:
        assert again == port


def test_a_port_in_use_is_a_clear_error(metrics: JobMetrics) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        expected = rf"metrics port {port} on 127\.0\.0\.1 is in use"
        with pytest.raises(SpecError, match=expected), serve(metrics, port=port):
            pass


def test_an_address_that_is_not_ours_is_a_clear_error(metrics: JobMetrics) -> None:
    expected = r"cannot serve metrics on 192\.0\.2\.1"
    with pytest.raises(SpecError, match=expected), serve(metrics, port=0, address="192.0.2.1"):
        pass


def test_the_textfile_holds_what_a_last_scrape_would(metrics: JobMetrics, tmp_path: Path) -> None:
    metrics(JobFinished("seg-1", 12.5))
    metrics.write_textfile(tmp_path / "job.prom")
    found = parse((tmp_path / "job.prom").read_text())
    assert found["unet_batch_job_duration_seconds"][()] == 12.5
    assert found["unet_batch_job_running"][()] == 0
    assert found["unet_batch_voxels_total"][()] == 1000


def test_a_textfile_that_cannot_be_written_names_its_path(
    metrics: JobMetrics, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        metrics.write_textfile(tmp_path / "nowhere" / "job.prom")
