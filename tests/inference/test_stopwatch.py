"""Where the time of a call goes, and from when on it counts."""

from __future__ import annotations

import pytest

from unet_batch.inference import stopwatch as module
from unet_batch.inference.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in the last place."""
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[-1])
    return now


def test_each_part_is_counted(clock: list[float]) -> None:
    watch = Stopwatch()
    for seconds in (1, 2):
        with watch("forward"):
            clock.append(clock[-1] + seconds)
    with watch("finish"):
        clock.append(clock[-1] + 0.5)
    assert watch.seconds == {"normalise": 0, "forward": 3, "accumulate": 0, "finish": 0.5}


def test_what_lanes_did_side_by_side_is_shared_out(clock: list[float]) -> None:
    watch = Stopwatch()
    with watch("forward"):
        clock.append(clock[-1] + 6)
    watch.share_out(2)
    with watch("finish"):
        clock.append(clock[-1] + 1)
    assert (watch.seconds["forward"], watch.seconds["finish"]) == (3, 1)


def test_the_wait_for_another_call_does_not_count(clock: list[float]) -> None:
    watch = Stopwatch()
    assert watch.busy_s == 0
    clock.append(clock[-1] + 50)
    with watch("normalise"):
        clock.append(clock[-1] + 2)
    clock.append(clock[-1] + 3)
    assert watch.busy_s == 5


def test_what_fails_is_raised_and_not_counted(clock: list[float]) -> None:
    watch = Stopwatch()

    @watch("forward")
    def fail() -> None:
        clock.append(clock[-1] + 2)
        raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert watch.seconds["forward"] == 0
