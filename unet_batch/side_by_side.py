"""Side by side: work that means to wait, as on a store far away, many pieces of it at once.

A bucket answers after tens of milliseconds in which nobody computes. One request after the other,
an archive of small scans would be segmented at the pace of those answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")

MOST_AT_ONCE = 32
"""Pieces of work; a store that is asked for more by one process may refuse them."""


def each(
    work: Callable[[Given], Result], items: Iterable[Given], *, at_once: bool | int = True
) -> list[Result]:
    """`work` done on each of `items`, in order.

    `at_once`: how many may be under way, up to MOST_AT_ONCE, which `True` stands for; one after
    the other where it is `False` or 1. Raises what `work` raised first.
    """
    items = list(items)
    wanted = MOST_AT_ONCE if at_once is True else int(at_once)
    number = min(wanted, MOST_AT_ONCE, len(items))
    if number < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, items))
