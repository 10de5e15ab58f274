from __future__ import annotations

import threading

import pytest
import torch

from unet_batch.training.batch import Batch
from unet_batch.training.read_ahead import ReadAhead


def constant(step: int) -> Batch:
    return Batch(torch.full((1,), float(step)), torch.zeros(1))


@pytest.mark.parametrize("readers", [1, 3])
def test_reading_ahead_keeps_the_order_of_the_steps(readers: int) -> None:
    with ReadAhead(constant, first=3, last=9, depth=2, readers=readers) as ahead:
        assert [float(ahead.next().image) for _ in range(7)] == [3, 4, 5, 6, 7, 8, 9]


def test_reading_ahead_stops_at_its_depth() -> None:
    made: list[int] = []

    def make(step: int) -> Batch:
        made.append(step)
        return constant(step)

    with ReadAhead(make, first=1, last=100, depth=2) as ahead:
        ahead.next()
    assert set(made) <= {1, 2, 3}
    assert 1 in made


def test_several_readers_work_at_once() -> None:
    together = threading.Barrier(3, timeout=10)

    def make(step: int) -> Batch:
        together.wait()
        return constant(step)

    with ReadAhead(make, first=1, last=3, readers=3) as ahead:
        assert [float(ahead.next().image) for _ in range(3)] == [1, 2, 3]


def test_an_error_in_the_thread_is_raised_where_its_batch_is_asked_for() -> None:
    def make(step: int) -> Batch:
        if step == 2:
            raise ValueError("truncated")
        return constant(step)

    with ReadAhead(make, first=1, last=3) as ahead:
        ahead.next()
        with pytest.raises(ValueError, match="truncated"):
            ahead.next()


def test_reading_ahead_leaves_no_thread_behind() -> None:
    with ReadAhead(constant, first=1, last=50) as ahead:
        ahead.next()
    assert not any(one.name.startswith("read-ahead") for one in threading.enumerate())
