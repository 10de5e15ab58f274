"""Places: which calls of a Replica may be under way at once, Ray giving each a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Lock

from unet_batch.models.process import use_threads

PACKS = "packs"
"""Ray's name for the threads of calls with packs; all other calls share one more thread."""

PACKS_AT_ONCE = 2


class Places:
    """Who may use a Predictor at once: packs side by side, or one call with all its cores."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._queue, self._free = Lock(), BoundedSemaphore(PACKS_AT_ONCE)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a place beside another pack, and hold it."""
        with self._queue:
            self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    @contextmanager
    def all(self) -> Iterator[None]:
        """Wait until nobody else is there, and hold all places; this thread has all cores."""
        with self._queue:  # where one waits for the last place, nobody takes the first again
            for _ in range(PACKS_AT_ONCE):
                self._free.acquire()
        try:
            use_threads(self._num_threads)  # Ray may call from another thread each time
            yield
        finally:
            self._free.release(PACKS_AT_ONCE)
