"""Dask work on Ray through a bounded window: what keeps an archive job's memory flat.

`ray_dask_get` submits every task of a graph at once: 40 results of 32 MiB against a store of
400 MiB spilled 2.5 GiB and took 25 s, against 2.2 s through a window of 4. So graphs are
submitted one by one here, each as soon as an earlier one has ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.pool import ThreadPool
from typing import Any, Generic, TypeVar

import ray
from dask.delayed import Delayed
from ray.exceptions import RayError
from ray.util.dask import ray_dask_get

from unet_batch.errors import ReplicaError

Key = TypeVar("Key")
Reference = ray.ObjectRef[Any]

_CANCEL_S = 5.0  # what a worker has to remove its temporary files
_POLL_S = 2.0  # how often deadlines are looked at while nothing ends


@dataclass(frozen=True, slots=True)
class Finished(Generic[Key]):
    """One piece of work that ended: its `value`, or the `error` that its worker met."""

    key: Key
    value: object = None
    error: Exception | None = None


def require_ray() -> None:
    """Raise ReplicaError where no Ray runs in this process."""
    if not ray.is_initialized():
        raise ReplicaError(
            "Ray is not running in this process: call ray.init() first, or use the "
            "`unet-batch` command, which does"
        )


def default_window() -> int:
    """Pieces of work in flight that keep every CPU of the cluster busy: 1.5 for each."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(2, round(1.5 * resources.get("CPU", 1)))


def compute_in_window(
    work: Iterable[tuple[Key, Delayed]], *, window: int, timeout_s: float | None = None
) -> Iterator[Finished[Key]]:
    """Compute each `(key, delayed)` on Ray, at most `window` at once, and yield as they end.

    `work` is consumed lazily. An error of one piece is yielded, not raised. A piece that has
    not ended `timeout_s` after it was submitted is ended together with its worker process (a
    decoder in C may hang on a damaged file), and yielded as a TimeoutError. What is in flight
    when the caller is interrupted is cancelled.
    """
    require_ray()
    remaining = iter(work)
    in_flight: dict[Reference, tuple[Key, float]] = {}  # the time is when it must have ended
    with closing(ThreadPool(1)) as pool, _ending(in_flight):
        while True:
            for key, delayed in islice(remaining, window - len(in_flight)):
                deadline = time.monotonic() + (timeout_s or math.inf)
                in_flight[_submit(delayed, pool)] = key, deadline
            if not in_flight:
                return
            ready, _ = ray.wait(list(in_flight), num_returns=1, timeout=_POLL_S)
            for reference in ready:
                yield _finish(in_flight.pop(reference)[0], reference)
            now = time.monotonic()
            for reference in [one for one, (_, end) in in_flight.items() if end < now]:
                ray.cancel(reference, force=True)
                error = TimeoutError(f"took longer than {timeout_s:g} s and was ended")
                yield Finished(in_flight.pop(reference)[0], error=error)


@contextmanager
def _ending(in_flight: Collection[Reference]) -> Iterator[None]:
    """End what is still in flight where nobody waits for it any more: workers clean up."""
    try:
        yield
    finally:
        if in_flight and ray.is_initialized():
            for reference in in_flight:
                ray.cancel(reference)
            ray.wait(list(in_flight), num_returns=len(in_flight), timeout=_CANCEL_S)


def _submit(delayed: Delayed, pool: ThreadPool) -> Reference:
    """The reference to the result of `delayed`, whose graph Ray works on from now on."""
    graph, key = delayed.__dask_graph__(), delayed.key
    references: list[Reference] = ray_dask_get(graph, [key], pool=pool, ray_persist=True)
    return references[0]


def _finish(key: Key, reference: Reference) -> Finished[Key]:
    try:
        return Finished(key, value=ray.get(reference))
    except RayError as error:  # also what the task itself raised: Ray derives from both
        return Finished(key, error=error)
