"""Keeper: sees to it that a Job has as many Replicas as there is work for, and says which live."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from ray.exceptions import RayError

from unet_batch.inference.deaths import Coroner, Death
from unet_batch.inference.pool import ReplicaPool
from unet_batch.inference.references import Ref
from unet_batch.inference.workforce import Workforce
from unet_batch.monitoring.events import Listener, ReplicaLost, Warned
from unet_batch.planning.messages import Event, ReplicaGone, ReplicaReady

STARVED_S = 60.0
"""Without a single Replica before a person is told: the cluster may have no room for one."""

CROWDED_S = 300.0
"""For so long no Replica is begun in the place of one that was ended to make room.

Unless a node has come.
"""

Starting = Iterator[tuple[str, Ref]]
"""Names of Replicas, each with a reference that is there once it has started."""


class ReplicaKeeper:
    """Starts, replaces and ends the Replicas of a pool, as the Schedule has work for them."""

    def __init__(
        self, pool: ReplicaPool, workforce: Workforce, listen: Listener, *, stitches: bool = False
    ) -> None:
        self._pool, self._workforce, self._listen = pool, workforce, listen
        self._stitches = stitches
        self._ready: set[str] = set()
        self._coroner = Coroner()
        self._starved_since: float | None = perf_counter()
        self._fitting, self._crowded_until, self._crowded_cpus = 0, 0.0, 0.0

    def begin(self, wanted: int | None) -> Starting:
        """All Replicas of the pool, and those that are missing. `wanted` None: all there may be."""
        yield from self._pool.start_all(self._number(wanted))

    def match(self, wanted: int | None, *, most: int | None = None) -> Starting:
        """Start what is missing; end what has not begun and is wanted no more.

        `most` is what other Jobs leave to this one.
        """
        number = self._number(wanted)
        number = number if most is None else min(number, most)
        if self._is_crowded():
            number = min(number, self._fitting)
        while len(self._pool) < number:
            yield self._pool.start()
        if len(self._pool) > number:
            unready = [name for name in self._pool if name not in self._ready]
            for name in unready[number - len(self._pool) :]:
                self._pool.end(name)

    def was_started(self, name: str, ref: Ref) -> Iterator[Event]:
        """What follows from a Replica that has started, or could not."""
        if name not in self._pool:
            return  # it was ended before it began
        try:
            self._workforce.result(ref)
        except RayError as error:
            death = self._coroner.explain(error)
            is_to_blame = death.is_short or getattr(error, "actor_init_failed", True)
            was_killed = not is_to_blame and not death.is_of_node
            self._pool.lose(name, death.reason, is_to_blame=is_to_blame, was_killed=was_killed)
            return
        self._pool.note_ready()
        self._ready.add(name)
        self._starved_since = None
        if self._stitches:  # not before: loading the model comes first
            self._workforce.prepare_stitching()
        yield ReplicaReady(name)

    def died(self, name: str, error: RayError) -> tuple[Death, list[Event]]:
        """Why a Replica is gone, and what follows; nothing where that is known already."""
        if name not in self._pool:
            return Death("", is_short=False), []
        death = self._coroner.explain(error)
        self._pool.lose(name, death.reason)
        self._ready.discard(name)
        self._starved_since = None if self._ready else perf_counter()
        self._listen(ReplicaLost(death.reason))
        return death, [ReplicaGone(name, death.reason)]

    def retire(self, name: str) -> None:
        """End a Replica that is idle."""
        self._ready.discard(name)
        self._pool.end(name)

    def make_room(self) -> Iterator[Event]:
        """End one of several Replicas that left no CPU to those who read and write for them.

        Each leaves half a CPU, but small ones may fill a node to the brim.
        """
        if len(self._ready) < 2 or not self._workforce.is_full():
            return
        name = max(self._ready)
        self._fitting, self._crowded_until = len(self._ready) - 1, perf_counter() + CROWDED_S
        self._crowded_cpus = self._workforce.num_cpus()
        self.retire(name)
        size = self._pool.size
        self._listen(
            Warned(
                f"the Replicas held every CPU and nothing could be read: {name} was ended,"
                f" {self._fitting} go on. Each asks for {size.num_cpus} CPUs; lower"
                " resources.replicas to what the nodes have room for"
            )
        )
        yield ReplicaGone(name, "it was ended to make room")

    def _is_crowded(self) -> bool:
        """Whether Replicas lately left no room, and no node has come since."""
        if perf_counter() >= self._crowded_until:
            return False
        if self._workforce.num_cpus() > self._crowded_cpus:
            self._crowded_until = 0.0
        return self._crowded_until > 0

    def tell_starvation(self) -> None:
        """Say once that no Replica starts, rather than wait in silence."""
        if self._starved_since is None or perf_counter() - self._starved_since < STARVED_S:
            return
        self._starved_since = None
        size = self._pool.size
        self._listen(
            Warned(
                f"no Replica could be started for {STARVED_S:.0f} s: each asks for"
                f" {size.num_cpus} CPUs and {size.num_gpus:g} GPUs of one node; waiting for the"
                " cluster to have them. Ask for less in `resources`, or add nodes"
            )
        )

    def _number(self, wanted: int | None) -> int:
        size = self._pool.size
        return size.count if wanted is None else min(max(wanted, size.least), size.count)
