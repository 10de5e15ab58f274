from __future__ import annotations

import math

import torch

from unet_batch.training.early_stopping import EarlyStopping


def network(weight: float) -> torch.nn.Linear:
    one = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(one.weight, weight)
    return one


def run(stopping: EarlyStopping, scores: list[float]) -> list[bool]:
    return [stopping.observe(dice, k, network(k)) for k, dice in enumerate(scores, start=1)]


def test_it_stops_after_so_many_validations_without_a_better_one() -> None:
    stopping = EarlyStopping(2)
    assert run(stopping, [0.5, 0.7, 0.6, 0.8, 0.8, 0.1]) == [False] * 5 + [True]
    assert (stopping.best_step, stopping.best_dice) == (4, 0.8)


def test_the_best_weights_are_kept() -> None:
    stopping, last = EarlyStopping(5), network(9)
    run(stopping, [0.5, 0.7, 0.6])
    stopping.restore_best(last)
    assert last.weight.item() == 2


def test_without_patience_nothing_is_kept_and_nothing_stops() -> None:
    stopping, last = EarlyStopping(0), network(9)
    assert not any(run(stopping, [0.5, 0.1, 0.1]))
    stopping.restore_best(last)
    assert last.weight.item() == 9


def test_nan_is_never_better() -> None:
    stopping = EarlyStopping(1)
    assert run(stopping, [math.nan]) == [True]
    assert stopping.best_step == 0


def test_it_goes_on_after_a_restart() -> None:
    first, second = EarlyStopping(3), EarlyStopping(3)
    run(first, [0.9, 0.5, 0.5])
    second.restore(first.state())
    assert second.observe(0.5, 4, network(4))
    assert second.best_step == 1
