"""ReadAhead: batches made by threads while the network is busy with earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

from unet_batch.training.batch import Batch


class ReadAhead:
    """Makes the batches of `first` to `last` in `readers` threads, at most `depth` ahead.

    Batches come in the order of their steps, whichever is made first. An error in a thread
    is raised by the `next` that would have returned its batch.
    """

    def __init__(
        self,
        make: Callable[[int], Batch],
        *,
        first: int,
        last: int,
        depth: int = 4,
        readers: int = 1,
    ) -> None:
        self._make = make
        self._steps = iter(range(first, last + 1))
        self._depth = depth
        self._pool = ThreadPoolExecutor(
            readers, "read-ahead", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._made: deque[Future[Batch]] = deque()

    def __enter__(self) -> Self:
        for _ in range(self._depth):
            self._order()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def next(self) -> Batch:
        """The next step's Batch; waits until it is made."""
        made = self._made.popleft()
        self._order()
        return made.result()

    def _order(self) -> None:
        """Have one more batch made, if there is one."""
        for step in self._steps:
            self._made.append(self._pool.submit(self._make, step))
            return
