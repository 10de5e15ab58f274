"""Live view, JSON and Prometheus say the same of a Job; a snapshot is read by any machine."""

from __future__ import annotations

import io
import json

from rich.console import Console

from unet_batch.monitoring.events import (
    JobStarted,
    QueueChanged,
    ReplicaLost,
    StageTimed,
    TrainStep,
    Validated,
    VolumeFinished,
)
from unet_batch.monitoring.metrics import JobMetrics
from unet_batch.monitoring.progress import draw, format_rate
from unet_batch.monitoring.snapshot import progress_from_json, progress_to_json
from unet_batch.monitoring.tally import MAX_REASON, Tally


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def busy() -> tuple[Tally, JobMetrics]:
    clock = Clock()
    tally = Tally(clock)
    metrics = JobMetrics(tally)
    hear = metrics  # it tells the Tally too
    hear(JobStarted("j", "segment", "liver", num_volumes=10, num_voxels=10_000_000))
    clock.now += 20
    for stage, seconds in (("read", 2.0), ("predict", 17.0), ("write", 1.0)):
        hear(StageTimed(stage, seconds))  # type: ignore[arg-type]
    for number in range(4):
        hear(VolumeFinished(f"v{number}", "done", num_voxels=1_000_000))
    hear(VolumeFinished("bad", "quarantined", "reading failed: truncated " + "x" * 999))
    hear(ReplicaLost("gone"))
    hear(QueueChanged({"predict": 3}, replicas_busy=3, replicas_idle=1))
    return tally, metrics


def sample(metrics: JobMetrics, name: str, **labels: str) -> float:
    wanted = {"job": "j", "model": "liver", "dataset": "", **labels}
    value = metrics.registry.get_sample_value(f"unet_batch_{name}", wanted)
    assert value is not None, name
    return value


def shown(tally: Tally) -> str:
    """What another machine draws, from what went through the store."""
    stored = json.dumps(progress_to_json(tally.progress()))
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    console.print(draw(progress_from_json(json.loads(stored))))
    return console.file.getvalue()


def test_view_json_and_metrics_say_the_same() -> None:
    tally, metrics = busy()
    told, text = progress_to_json(tally.progress()), shown(tally)
    done = sample(metrics, "volumes_total", outcome="done")
    assert told["outcomes"]["done"] == done == 4
    assert "4 of 10 volumes, 1 quarantined, 5 left" in text
    planned = sample(metrics, "volumes_planned")
    quarantined = sample(metrics, "volumes_total", outcome="quarantined")
    assert told["volumes_left"] == planned - done - quarantined == 5
    rate = sample(metrics, "voxels_per_second")
    assert told["voxels_per_second"] == rate == 200_000
    assert format_rate(rate) in text
    left = sample(metrics, "job_remaining_seconds")
    assert told["seconds_left"] == left == 30
    assert "30 s left" in text
    busy_now = sample(metrics, "replicas", state="busy")
    assert (told["replicas_busy"], told["replicas_idle"]) == (busy_now, 1)
    assert "3 busy, 1 idle, 1 lost" in text
    seconds = told["stage_seconds"]["predict"]
    assert seconds == sample(metrics, "stage_seconds_total", stage="predict") == 17
    assert "predict 85%" in text
    assert told["causes"] == {"unreadable": 1}
    assert sample(metrics, "volumes_quarantined_total", cause="unreadable") == 1
    assert told["share_done"] == sample(metrics, "job_done_ratio")
    assert "bad: reading failed" in text


def test_a_snapshot_has_a_bounded_size_however_long_the_reasons() -> None:
    tally, _ = busy()
    for number in range(50):
        tally(VolumeFinished(f"w{number}", "quarantined", "y" * 100_000))
    assert len(json.dumps(progress_to_json(tally.progress()))) < 4 * MAX_REASON + 2000


def test_a_training_goes_through_and_nan_becomes_null() -> None:
    tally = Tally(Clock())
    tally(JobStarted("t", "train", "liver", num_volumes=3))
    tally(TrainStep(5, 10, float("nan"), 1e-3, 0.1, 0.0))
    tally(Validated(5, 0.75))
    told = json.loads(json.dumps(progress_to_json(tally.progress()), allow_nan=False))
    again = progress_from_json(told)
    assert again.training is not None
    assert (again.training.step, told["training"]["loss"]) == (5, None)
    assert again.validated == Validated(5, 0.75)


def test_what_another_version_wrote_is_read_as_far_as_it_is_known() -> None:
    assert progress_from_json({"num_volumes": 3, "surprise": 1}).num_volumes == 3
    assert progress_from_json({}).volumes_left == 0
