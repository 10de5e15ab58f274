"""Lanes: batches predicted side by side, and landed in the order of the tiles.

The cores that share one forward pass wait for each other at every layer, and all of them while
one reads a tile, adds logits or runs Python. A lane is a thread that takes the next batch, runs
it through the network on its share of the cores and lands it. Where it is not yet its turn, it
leaves the logits and goes on, and whoever is behind lands both: sums are added in the order that
one lane would add them in, so that labels do not depend on how many there are.

    lane 0   [ take | forward  2                   | land 2, 3 ][ take | forward  5  ...
    lane 1        [ take | forward  3      ][ take | forward  4       | land 4 ][ ...

Milliseconds a tile of two cores that share a pass, and of a pass each (residual U-Net):

==========================  ======  =====
tile, classes, precision    shared  lanes
==========================  ======  =====
40³, 3, bf16                  2.70   2.22
64³, 14, bf16                 13.0   12.0
96³, 2, bf16                  24.6   23.7
96³, 14, bf16                 40.2   39.5
96³, 2, fp32 (AVX2)            153    138
96³, 14, fp32 (AVX2)           301    291
==========================  ======  =====
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Condition, Lock
from typing import Generic, TypeVar

import torch

from unet_batch.models.process import use_threads
from unet_batch.planning.lanes import MOST_LEFT

Work = TypeVar("Work")
Result = TypeVar("Result")


class Lanes:
    """`number` threads that share out the caller's cores; a lone one is the caller itself.

    Several callers may `run` at once: a thread for which one has no more work begins with that of
    the next. Each one's work is finished in its own order.
    """

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self._threads: ThreadPoolExecutor | None = None
        if number > 1:
            share = max(1, torch.get_num_threads() // number)
            self._threads = ThreadPoolExecutor(
                number, "lane", initializer=use_threads, initargs=(share,)
            )

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def run(
        self,
        work: Iterable[Work],
        do: Callable[[Work], Result],
        finish: Callable[[Work, Result], None],
    ) -> None:
        """`do` each piece of work side by side, and `finish` one after the other, in order.

        `work` is asked for the next piece by one lane at a time, when that lane is free and no
        more than MOST_LEFT results wait for their turn. Raises what any of them raised, after
        all lanes have ended.
        """
        if self._threads is None:
            for one in work:
                finish(one, do(one))
            return
        relay = _Relay(self.number, work, do, finish)
        under_way = [self._threads.submit(relay.run_lane) for _ in range(self.number)]
        wait(under_way)
        for lane in under_way:
            lane.result()


class _Relay(Generic[Work, Result]):
    """Work that several lanes share: who takes what, and who finishes what is done.

    A lane whose turn it is not leaves its result and goes on: the lane that is behind finishes
    it after its own. MOST_LEFT results may lie so, beside what the lanes are at work on.
    """

    def __init__(
        self,
        number: int,
        work: Iterable[Work],
        do: Callable[[Work], Result],
        finish: Callable[[Work, Result], None],
    ) -> None:
        self._most_taken = number + MOST_LEFT
        self._work, self._do, self._finish = iter(work), do, finish
        self._taking, self._state = Lock(), Condition()
        self._done: dict[int, tuple[Work, Result]] = {}
        self._num_taken = self._num_finished = 0
        self._is_finishing = self._is_broken = False

    def run_lane(self) -> None:
        """Take work until none is left, or a lane has failed."""
        try:
            while (taken := self._take()) is not None:
                number, one = taken
                self._hand_in(number, one, self._do(one))
        except BaseException:
            with self._state:
                self._is_broken = True
                self._state.notify_all()
            raise

    def _take(self) -> tuple[int, Work] | None:
        with self._taking:
            with self._state:
                self._state.wait_for(self._may_take)
                if self._is_broken:
                    return None
            for one in self._work:
                self._num_taken += 1
                return self._num_taken - 1, one
            return None

    def _may_take(self) -> bool:
        return self._num_taken - self._num_finished < self._most_taken or self._is_broken

    def _hand_in(self, number: int, one: Work, result: Result) -> None:
        """Leave a result; finish all whose turn has come, unless another lane is about it."""
        with self._state:
            self._done[number] = (one, result)
            if self._is_finishing:
                return
            self._is_finishing = True
        while (following := self._following()) is not None:
            self._finish(*following)
            with self._state:
                self._num_finished += 1
                self._state.notify_all()

    def _following(self) -> tuple[Work, Result] | None:
        """The next in turn, if it is done; else whoever hands it in goes on from there."""
        with self._state:
            following = None if self._is_broken else self._done.pop(self._num_finished, None)
            self._is_finishing = following is not None
            return following
