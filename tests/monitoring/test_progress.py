"""The live view and its plain lines; a broken terminal never reaches the Job."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    NetworkDerived,
    QueueChanged,
    StageTimed,
    StoppedEarly,
    TrainStep,
    VolumeFinished,
    Warned,
)
from unet_batch.monitoring.progress import (
    LINE_EVERY_S,
    JobConsole,
    ProgressDisplay,
    describe,
    draw,
    format_duration,
    format_rate,
)
from unet_batch.monitoring.tally import Tally


class Clock:
    """A clock that stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def busy_job(clock: Clock) -> Tally:
    tally = Tally(clock)
    tally(JobStarted("j", "segment", "liver-unet", num_volumes=4, num_voxels=4_000_000))
    clock.now += 10
    tally(StageTimed("read", 1.0))
    tally(StageTimed("predict", 9.0))
    tally(QueueChanged({"predict": 2}, replicas_busy=2, replicas_idle=1))
    tally(VolumeFinished("a", "done", num_voxels=1_000_000))
    tally(VolumeFinished("case [7]", "quarantined", reason="NaN voxels", num_voxels=1_000_000))
    return tally


def shown(tally: Tally) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(draw(tally.progress()))
    return console.file.getvalue()


def test_the_live_view_says_how_far_how_fast_and_where_the_time_goes() -> None:
    text = shown(busy_job(Clock()))
    assert "liver-unet" in text
    assert "1 of 4 volumes, 1 quarantined" in text
    assert "50%" in text
    assert "20 s left" in text
    assert "100.0 kvoxel/s" in text
    assert "2 busy, 1 idle" in text
    assert "read 10%, predict 90%" in text


def test_names_with_brackets_are_shown_as_they_are() -> None:
    assert "case [7]: NaN voxels" in shown(busy_job(Clock()))


def test_the_view_of_a_training_shows_steps_and_loss() -> None:
    tally = Tally(Clock())
    tally(JobStarted("j", "train", "liver", num_volumes=96))
    tally(TrainStep(50, 200, 0.4321, 1e-3, 0.3, 0.01))
    assert "step 50 of 200" in shown(tally)
    assert "loss 0.432" in shown(tally)


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    clock, console = Clock(), JobConsole(file=io.StringIO(), width=200)
    with ProgressDisplay(console=console, clock=clock) as display:
        display(JobStarted("j", "segment", "m", num_volumes=2))
        for volume_id in "ab":
            display(VolumeFinished(volume_id, "done", num_voxels=10))
        assert console.file.getvalue() == ""
        clock.now += LINE_EVERY_S
        display(QueueChanged())
        display(QueueChanged())
        display(JobFinished("j", 1.0))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("segment: 2 of 2 volumes")
    assert lines[-1].endswith("took 30 s")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_warning_is_shown_at_once_and_as_it_is(is_terminal: bool) -> None:
    console = JobConsole(file=io.StringIO(), width=120, force_terminal=is_terminal)
    with ProgressDisplay(console=console, clock=Clock()) as display:
        display(Warned("bfloat16 changes 3 % [of the labels]"))
        assert "warning: bfloat16 changes 3 % [of the labels]" in console.file.getvalue()


def test_why_a_network_was_derived_is_printed_and_stays() -> None:
    console = JobConsole(file=io.StringIO(), width=120, force_terminal=False)
    with ProgressDisplay(console=console, clock=Clock()) as display:
        display(NetworkDerived(("tile 40x56x40: the median", "batch 5: a twentieth")))
    lines = console.file.getvalue().splitlines()
    assert lines == ["network: tile 40x56x40: the median", "network: batch 5: a twentieth"]


def test_an_early_stop_is_printed_and_stays() -> None:
    console = JobConsole(file=io.StringIO(), width=120, force_terminal=False)
    with ProgressDisplay(console=console, clock=Clock()) as display:
        display(StoppedEarly(500, 300, 0.81234))
    line = "stopped early at step 500: no validation beat Dice 0.812 of step 300"
    assert console.file.getvalue().splitlines() == [line]


def test_a_terminal_gets_the_live_view() -> None:
    console = JobConsole(file=io.StringIO(), width=100, force_terminal=True)
    with ProgressDisplay(console=console) as display:
        display(JobStarted("j", "segment", "liver-unet", num_volumes=2))
    assert "\x1b[" in console.file.getvalue()
    assert "0 of 2 volumes" in console.file.getvalue()


class BrokenPipe(io.StringIO):
    """A terminal whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError("the reader has gone")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_broken_terminal_does_not_reach_the_job(is_terminal: bool) -> None:
    clock, console = Clock(), JobConsole(file=BrokenPipe(), force_terminal=is_terminal)
    with ProgressDisplay(console=console, clock=clock) as display:
        display(JobStarted("j", "segment", "m", num_volumes=1))
        clock.now += LINE_EVERY_S
        display(VolumeFinished("a", "done"))
        display(JobFinished("j", 1.0))


def test_the_display_does_not_hide_the_jobs_own_error() -> None:
    with pytest.raises(KeyError), ProgressDisplay(console=JobConsole(file=io.StringIO())):
        raise KeyError("the Job's own")


def test_a_line_of_a_job_that_has_just_begun_is_short() -> None:
    tally = Tally(Clock())
    tally(JobStarted("j", "segment", "m", num_volumes=3))
    assert describe(tally.progress()) == "segment: 0 of 3 volumes"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_are_easy_to_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(3.44e6, "3.4 Mvoxel/s"), (950.0, "950 voxel/s"), (2e9, "2.0 Gvoxel/s")]
)
def test_rates_are_easy_to_read(rate: float, text: str) -> None:
    assert format_rate(rate) == text
