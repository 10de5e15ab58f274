"""Stopwatch: where the time of one call to a Predictor goes, by any of its lanes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import perf_counter
from typing import Literal, get_args

Part = Literal["normalise", "forward", "accumulate", "finish"]


class Stopwatch:
    """Seconds by part, and how long the call has been at work.

    It begins with the first part: before that, lanes may be at another call's last batches.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(get_args(Part), 0.0)
        self._counting = Lock()
        self._began: float | None = None

    @contextmanager
    def __call__(self, part: Part) -> Iterator[None]:
        """What is done meanwhile counts as `part`, unless it fails."""
        started = perf_counter()
        self._began = self._began or started
        yield
        with self._counting:
            self.seconds[part] += perf_counter() - started

    def share_out(self, num_lanes: int) -> None:
        """Of what `num_lanes` did side by side so far, count what each did on average."""
        self.seconds = {part: total / num_lanes for part, total in self.seconds.items()}

    @property
    def busy_s(self) -> float:
        """Seconds since the first part began; 0 before."""
        return perf_counter() - self._began if self._began else 0.0
