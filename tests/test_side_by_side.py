"""Work that means to wait: in order, at once, and no more of it than was asked for."""

from __future__ import annotations

import threading
import time

import pytest

from unet_batch.side_by_side import MOST_AT_ONCE, each

from .crowd import Crowd


@pytest.mark.parametrize(
    ("at_once", "most"), [(True, MOST_AT_ONCE), (False, 1), (1, 1), (0, 1), (3, 3), (1000, 32)]
)
def test_results_come_in_order_and_no_more_at_once_than_asked(
    at_once: bool | int, most: int
) -> None:
    crowd = Crowd()

    def visit(number: int) -> int:
        with crowd.inside():
            time.sleep(0.01 * (number % 3))
        return -number

    assert each(visit, range(100), at_once=at_once) == [-n for n in range(100)]
    assert crowd.most <= most
    assert (crowd.most > 1) == (most > 1)


def test_all_that_fit_are_under_way_together() -> None:
    meeting = threading.Barrier(MOST_AT_ONCE, timeout=10)  # nobody leaves before all are there
    assert len(set(each(lambda _: meeting.wait(), range(MOST_AT_ONCE)))) == MOST_AT_ONCE


def test_nothing_to_do_and_what_goes_wrong() -> None:
    assert each(len, []) == []
    with pytest.raises(ZeroDivisionError):
        each(lambda n: 1 // n, [2, 1, 0, 3])
