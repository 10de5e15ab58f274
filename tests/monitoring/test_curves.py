"""Curves: what was said last of each step, filled with what an earlier run remembers."""

from __future__ import annotations

from unet_batch.monitoring.curves import CurveRecorder, Curves
from unet_batch.monitoring.events import JobFinished, TrainStep, Validated


def recorded(*steps: int, loss: float = 1.0) -> CurveRecorder:
    recorder = CurveRecorder()
    for step in steps:
        recorder(TrainStep(step, 100, loss / step, 0.01 * step, 0.2, 0.05))
    return recorder


def test_a_step_that_is_told_again_counts_as_it_was_told_last() -> None:
    recorder = recorded(1, 10, 20)
    recorder(TrainStep(10, 100, 5.0, 0.3, 0.2, 0.05))
    curves = recorder.curves()
    assert curves.loss == ((1, 1.0), (10, 5.0), (20, 0.05))
    assert curves.learning_rate[1] == (10, 0.3)


def test_what_an_earlier_run_remembers_comes_first() -> None:
    recorder = recorded(10)
    recorder(Validated(10, 0.8))
    curves = recorder.curves(losses=[(1, 9.0), (10, 7.0)], dice=[(5, 0.6)])
    assert curves.loss == ((1, 9.0), (10, 0.1))
    assert curves.dice == ((5, 0.6), (10, 0.8))


def test_other_events_are_none_of_its_business() -> None:
    recorder = CurveRecorder()
    recorder(JobFinished("a", 1.0))
    assert recorder.curves() == Curves()


def test_the_table_has_a_row_for_each_step_and_empty_cells() -> None:
    curves = recorded(1, 2).curves(dice=[(2, 0.5), (3, 0.625)])
    assert curves.csv().splitlines() == [
        "step,loss,learning_rate,step_seconds,data_wait_seconds,dice",
        "1,1,0.01,0.2,0.05,",
        "2,0.5,0.02,0.2,0.05,0.5",
        "3,,,,,0.625",
    ]
