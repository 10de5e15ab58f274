"""Rates, shares and the time left of a Job, on a clock of the test's own."""

from __future__ import annotations

import pytest

from unet_batch.monitoring.events import (
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
from unet_batch.monitoring.tally import Failure, Tally


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    return Tally(clock)


def start(tally: Tally, num_volumes: int = 4, num_voxels: int = 4000) -> None:
    tally(JobStarted("j", "segment", "liver", num_volumes, num_voxels=num_voxels))


def test_a_large_volume_moves_the_share_before_it_is_finished(tally: Tally, clock: Clock) -> None:
    start(tally, num_volumes=1)
    clock.now += 10
    tally(StageTimed("write", 1.0, num_voxels=1000))
    progress = tally.progress()
    assert progress.share_done == pytest.approx(0.25)
    assert progress.seconds_left == pytest.approx(30.0)
    assert progress.voxels_per_second == pytest.approx(100.0)


def test_voxels_of_a_volume_are_not_counted_again_when_it_finishes(tally: Tally) -> None:
    start(tally)
    tally(StageTimed("write", 1.0, num_voxels=1000))
    tally(VolumeFinished("a", "done", num_voxels=1000))
    assert tally.num_voxels == 1000


def test_volumes_count_when_their_stages_say_nothing_of_voxels(tally: Tally) -> None:
    start(tally)
    tally(VolumeFinished("a", "done", num_voxels=1000))
    assert tally.num_voxels == 1000
    assert tally.progress().share_done == pytest.approx(0.25)


def test_tiles_read_and_predicted_are_not_taken_for_voxels_done(tally: Tally) -> None:
    start(tally)
    tally(StageTimed("read", 1.0, num_voxels=500))
    tally(StageTimed("predict", 1.0, num_voxels=4000))
    assert tally.num_voxels == 0


def test_skipped_volumes_shorten_the_time_left(tally: Tally, clock: Clock) -> None:
    start(tally)
    tally(VolumeFinished("a", "skipped", num_voxels=1000))
    tally(VolumeFinished("b", "skipped", num_voxels=1000))
    clock.now += 10
    tally(VolumeFinished("c", "done", num_voxels=1000))
    assert tally.progress().share_done == pytest.approx(0.75)
    assert tally.progress().seconds_left == pytest.approx(10.0)


def test_the_speed_is_that_of_the_last_minute(tally: Tally, clock: Clock) -> None:
    start(tally)
    tally(VolumeFinished("a", "done", num_voxels=3000))
    clock.now += 61
    assert tally.progress().voxels_per_second == 0.0
    tally(VolumeFinished("b", "done", num_voxels=600))
    assert tally.progress().voxels_per_second == pytest.approx(10.0)


def test_after_the_end_the_speed_is_that_of_the_whole_job(tally: Tally, clock: Clock) -> None:
    start(tally)
    clock.now += 100
    tally(VolumeFinished("a", "done", num_voxels=4000))
    tally(JobFinished("j", 100.0))
    clock.now += 1000
    progress = tally.progress()
    assert (progress.voxels_per_second, progress.elapsed_s) == (40.0, 100.0)
    assert (progress.is_finished, progress.seconds_left) == (True, 0.0)


def test_a_job_without_voxel_counts_goes_by_volumes(tally: Tally, clock: Clock) -> None:
    start(tally, num_voxels=0)
    clock.now += 5
    tally(VolumeFinished("a", "done"))
    assert tally.progress().share_done == pytest.approx(0.25)
    assert tally.progress().seconds_left == pytest.approx(15.0)


def test_a_training_goes_by_steps(tally: Tally, clock: Clock) -> None:
    tally(JobStarted("j", "train", "liver", num_volumes=96))
    clock.now += 20
    tally(TrainStep(50, 200, 0.4, 1e-3, 0.3, 0.01))
    tally(Validated(50, 0.7))
    progress = tally.progress()
    assert progress.share_done == pytest.approx(0.25)
    assert progress.seconds_left == pytest.approx(60.0)
    assert progress.validated == Validated(50, 0.7)


def test_quarantined_volumes_are_counted_and_the_latest_kept(tally: Tally) -> None:
    start(tally, num_volumes=6)
    for name in "abcd":
        tally(VolumeFinished(name, "quarantined", reason=f"{name} is broken"))
    progress = tally.progress()
    assert progress.outcomes == {"quarantined": 4}
    assert progress.volumes_left == 2
    assert progress.last_failures[-1] == Failure("d", "d is broken")
    assert len(progress.last_failures) == 3


def test_undefined_dice_does_not_enter_the_mean(tally: Tally) -> None:
    for dice in (0.5, float("nan"), 1.0):
        tally(Scored("a", "liver", dice))
    assert tally.progress().mean_dice == pytest.approx(0.75)


def test_the_queue_and_lost_replicas_are_passed_on(tally: Tally) -> None:
    tally(QueueChanged({"read": 2}, replicas_busy=1, replicas_idle=3))
    tally(ReplicaLost("killed"))
    progress = tally.progress()
    assert progress.in_flight == {"read": 2}
    assert (progress.replicas_busy, progress.replicas_idle, progress.replicas_lost) == (1, 3, 1)


def test_before_anything_happened_nothing_is_known(tally: Tally) -> None:
    progress = tally.progress()
    assert progress.share_done is None
    assert progress.seconds_left is None


def test_another_job_begins_from_nothing() -> None:
    tally = Tally()
    for number in range(2):
        tally(JobStarted(f"job-{number}", "ingest", "", num_volumes=3))
        tally(VolumeFinished("a", "done", num_voxels=5))
        assert tally.progress().outcomes == {"done": 1}
        assert tally.progress().num_voxels == 5
        tally(JobFinished(f"job-{number}", 1.0))
        assert tally.progress().is_finished
