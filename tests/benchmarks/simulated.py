"""A simulated cluster for the real Driver: Replicas that take as long as their tiles would.

The Driver, the Schedule, the Ledger and the metrics are the real ones. Only what they start is
not carried out: each piece of work ends after the time it would take, on a clock that jumps
from one end to the next. The Driver's own time is real: what its thread spends between two
waits passes on the simulated clock too, and with it what Ray's calls cost it, so that a Driver
too slow for its Replicas leaves them idle here as it would there.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.pool import ReplicaSize
from unet_batch.inference.references import ArrayRef, PieceRef
from unet_batch.inference.replica import ReplicaReport
from unet_batch.inference.writing import Done
from unet_batch.tiling.box import Box

READERS = 8  # tasks that read or write at a time, for each Replica: its node's share of CPUs
STORE_BYTES_PER_S, STORE_LATENCY_S = 200e6, 0.02  # of one task, from a bucket
PUBLISH_S = 3 * STORE_LATENCY_S
CALL_S = 0.001  # what a call costs a Replica beside its tiles


@dataclass(frozen=True, slots=True)
class RayCost:
    """Seconds of the Driver's process for what it asks of Ray; `bench_scale` measures them.

    `submit_s` for a task or a call, `return_s` more for each of its returns, `wait_s` for a
    wait and `each_s` for each reference in it, `get_s` for fetching a report.
    """

    submit_s: float = 0.0
    return_s: float = 0.0
    wait_s: float = 0.0
    each_s: float = 0.0
    get_s: float = 0.0


@dataclass(slots=True)
class Clock:
    """Simulated seconds, and how many of them the Driver worked itself or asked Ray."""

    now: float = 0.0
    driver_s: float = 0.0
    ray_s: float = 0.0
    _mark: float = field(default_factory=time.thread_time)

    def enter(self) -> None:
        """The Driver hands over: what its thread took has passed."""
        took = time.thread_time() - self._mark
        self.now += took
        self.driver_s += took

    def leave(self, ray_s: float = 0.0) -> None:
        """The Driver goes on."""
        self.now += ray_s
        self.ray_s += ray_s
        self._mark = time.thread_time()


class Later:
    """A reference to what will be there at `at`."""

    __slots__ = ("at", "value")

    def __init__(self, at: float, value: Any) -> None:
        self.at, self.value = at, value


class SimulatedPool:
    """Replicas that are free at some time; they start at once, and none dies."""

    def __init__(self, size: ReplicaSize, clock: Clock) -> None:
        self.size, self._clock = size, clock
        self.free_at: dict[str, float] = {}
        self.busy_s = 0.0
        self.last_end = 0.0

    def start_all(self, number: int | None = None) -> list[tuple[str, Later]]:
        return [self.start() for _ in range(number or self.size.count)]

    def start(self) -> tuple[str, Later]:
        name = f"replica-{len(self.free_at)}"
        self.free_at[name] = self._clock.now
        return name, Later(self._clock.now, "simulated")

    def work(self, name: str, seconds: float) -> float:
        """When a call that comes now will be answered."""
        begin = max(self._clock.now, self.free_at[name])
        self.free_at[name] = self.last_end = begin + seconds
        self.busy_s += seconds
        return begin + seconds

    def actor(self, name: str) -> str:
        return name

    def __contains__(self, name: str) -> bool:
        return name in self.free_at

    def __len__(self) -> int:
        return len(self.free_at)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.free_at))

    def note_ready(self) -> None:
        pass

    def forget(self, volume_id: str) -> None:
        pass

    def end(self, name: str) -> None:
        del self.free_at[name]


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose own time is not the Driver's; it says what Ray's would have been."""

    def wrapper(self: SimulatedWorkforce, *arguments: Any, **options: Any) -> Any:
        self.clock.enter()
        found, ray_s = method(self, *arguments, **options)
        self.clock.leave(ray_s)
        return found

    return wrapper


class SimulatedWorkforce:
    """Carries nothing out, and says when it would be done."""

    def __init__(
        self, pool: SimulatedPool, clock: Clock, *, seconds_per_tile: float, ray: RayCost
    ) -> None:
        self.pool, self.clock = pool, clock
        self._seconds_per_tile, self._ray = seconds_per_tile, ray
        self._io_free_at = [0.0] * (READERS * pool.size.count)
        self._queue: list[tuple[float, int, Later]] = []
        self._number = 0
        self.num_blocks = self.num_calls = self.num_tiles = 0

    def _later(self, at: float, value: Any) -> Later:
        later = Later(at, value)
        self._number += 1
        heapq.heappush(self._queue, (at, self._number, later))
        return later

    def _io(self, seconds: float, value: Any) -> Later:
        begin = max(self.clock.now, heapq.heappop(self._io_free_at))
        heapq.heappush(self._io_free_at, begin + seconds)
        return self._later(begin + seconds, value)

    def expect(self, later: Later) -> None:
        """Have `wait` tell of a Replica's start as well."""
        self._number += 1
        heapq.heappush(self._queue, (later.at, self._number, later))

    @_timed
    def read(self, work: Sequence[tuple[Any, Box]]) -> tuple[list[list[PieceRef]], float]:
        sizes = [
            box.num_voxels * volume.info.shape_czyx[0] * np.dtype(volume.info.dtype).itemsize
            for volume, box in work
        ]
        boxes = [
            Box((0, *box.start), (volume.info.shape_czyx[0], *box.stop)) for volume, box in work
        ]
        later = self._io(STORE_LATENCY_S * len(work) + sum(sizes) / STORE_BYTES_PER_S, None)
        pieces = [[PieceRef(box, ArrayRef(later, k))] for k, box in enumerate(boxes)]
        return pieces, self._ray.submit_s + self._ray.return_s

    @_timed
    def predict(
        self, actor: str, orders: Sequence[BlockOrder], inputs: Sequence[Sequence[PieceRef]]
    ) -> tuple[tuple[Later, list[ArrayRef]], float]:
        tiles = [order.block.tiles.num_voxels for order in orders]
        again = [
            order.layout.rebuild_tiles(order.block).num_voxels if order.rebuild else 0
            for order in orders
        ]
        seconds = (sum(tiles) + sum(again)) * self._seconds_per_tile + CALL_S
        self.num_blocks += len(orders)
        self.num_calls += 1
        self.num_tiles += sum(tiles) + sum(again)
        report = ReplicaReport(
            ("",) * len(orders), sum(tiles) + sum(again), seconds, short=(False,) * len(orders)
        )
        num_cells = sum(len(order.layout.cells(order.block)) for order in orders)
        done = self._later(self.pool.work(actor, seconds), report)
        cells = [ArrayRef(Later(done.at, None), k) for k in range(num_cells)]
        num_returns = 2 if len(orders) > 1 else 1 + num_cells
        return (done, cells), self._ray.submit_s + self._ray.return_s * num_returns

    def prepare_stitching(self) -> None:
        pass

    @_timed
    def stitch(self, head: Any, sums: Sequence[ArrayRef]) -> tuple[tuple[Later, ArrayRef], float]:
        done = self._io(0.05, Done(0.05, 0, {}))
        return (done, ArrayRef(Later(done.at, None))), self._ray.submit_s + 2 * self._ray.return_s

    @_timed
    def write(self, work: Sequence[Any], whole: Sequence[Any] = ()) -> tuple[Later, float]:
        voxels = sum(region.num_voxels for _, region, _ in work)
        seconds = STORE_LATENCY_S * len(work) + voxels / STORE_BYTES_PER_S
        publish_s = PUBLISH_S * len(whole)
        done = Done(seconds, voxels, {}, publish_s)
        return self._io(seconds + publish_s, done), self._ray.submit_s + self._ray.return_s

    postprocess = write

    @_timed
    def publish(self, work: Sequence[Any]) -> tuple[Later, float]:
        seconds = PUBLISH_S * len(work)
        done = Done(0.0, 0, {}, seconds)
        return self._io(seconds, done), self._ray.submit_s + self._ray.return_s

    @_timed
    def wait(
        self, refs: Sequence[Later], *, timeout_s: float | None = None
    ) -> tuple[list[Later], float]:
        """What is there by now; where nothing is, the clock goes on to what comes first."""
        cost = self._ray.wait_s + self._ray.each_s * len(refs)
        queue = self._queue
        if not queue:
            raise AssertionError(f"the Driver waits for {len(refs)} pieces that nobody works on")
        self.clock.now = max(self.clock.now, queue[0][0])
        done = []
        while queue and queue[0][0] <= self.clock.now:
            done.append(heapq.heappop(queue)[2])
        return done, cost

    @_timed
    def wait_for_all(self, refs: Sequence[Later]) -> tuple[None, float]:
        return None, 0.0

    def is_full(self) -> bool:
        """Never: who reads and writes is not counted."""
        return False

    def num_cpus(self) -> float:
        """Nobody asks where nobody is in another's way."""
        return 0.0

    @_timed
    def result(self, ref: Later) -> tuple[Any, float]:
        return ref.value, self._ray.get_s
