"""As many Replicas as there is work for: within bounds, and never in silence."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from unet_batch.errors import ReplicaError
from unet_batch.inference import keeper as module
from unet_batch.inference.keeper import ReplicaKeeper
from unet_batch.inference.pool import ReplicaPool, ReplicaSize
from unet_batch.monitoring.events import Event, ReplicaLost, Warned
from unet_batch.planning.messages import ReplicaGone, ReplicaReady
from unet_batch.planning.specs.segment import InferenceSpec


class Pool(ReplicaPool):
    """Counts what is begun and ended; nothing runs."""

    def __init__(self, size: ReplicaSize) -> None:
        super().__init__([], InferenceSpec(), size=size, roi_zyx=(8, 8, 8))
        self.ended: list[str] = []

    def start(self) -> tuple[str, Any]:
        name = next(self._names)
        self._actors[name] = name
        return name, f"{name} is warm"

    def end(self, name: str) -> None:
        if self._actors.pop(name, None):
            self.ended.append(name)


class Workforce:
    """A start ends as it is told to."""

    error: Exception | None = None
    is_crowded = True
    cpus = 2.0

    def num_cpus(self) -> float:
        return self.cpus

    def is_full(self) -> bool:
        return self.is_crowded

    def result(self, ref: Any) -> str:
        if self.error:
            raise self.error
        return "torch"


class NodeGoneError(ActorDiedError):
    def __str__(self) -> str:
        return "The actor died because its node has died. Node Id: 12ab"


@pytest.fixture
def heard() -> list[Event]:
    return []


def keeper_of(size: ReplicaSize, heard: list[Event]) -> tuple[ReplicaKeeper, Pool, Workforce]:
    pool, workforce = Pool(size), Workforce()
    return ReplicaKeeper(pool, workforce, heard.append), pool, workforce  # type: ignore[arg-type]


def test_work_decides_within_the_bounds(heard: list[Event]) -> None:
    keeper, pool, _ = keeper_of(ReplicaSize(4, 1, 0, fewest=1), heard)
    names = [name for name, _ in keeper.begin(3)]
    assert len(names) == 3
    assert len(list(keeper.match(None))) == 1  # nobody knows how much is left: all
    assert list(keeper.was_started(names[0], "ref")) == [ReplicaReady(names[0])]
    assert list(keeper.match(0)) == []
    assert len(pool) == 1  # those that had not begun are not waited for
    assert names[0] in pool


def test_a_replica_that_was_ended_before_it_began_is_no_loss(heard: list[Event]) -> None:
    keeper, pool, _ = keeper_of(ReplicaSize(2, 1, 0, fewest=0), heard)
    (name, ref), _ = keeper.begin(2)
    list(keeper.match(0))
    assert len(pool) == 0
    assert list(keeper.was_started(name, ref)) == []
    assert heard == []


def test_a_death_is_told_once_and_replaced(heard: list[Event]) -> None:
    keeper, _pool, _ = keeper_of(ReplicaSize(1, 1, 0), heard)
    ((name, ref),) = keeper.begin(1)
    list(keeper.was_started(name, ref))
    death, follows = keeper.died(name, NodeGoneError())
    assert death.is_of_node
    assert follows == [ReplicaGone(name, "the node it ran on is gone")]
    assert keeper.died(name, NodeGoneError())[1] == []
    assert heard == [ReplicaLost("the node it ran on is gone")]
    assert len(list(keeper.match(1))) == 1


def test_models_that_cannot_start_end_the_job_but_killed_ones_and_lost_nodes_do_not(
    heard: list[Event],
) -> None:
    keeper, _pool, workforce = keeper_of(ReplicaSize(1, 1, 0), heard)
    workforce.error = NodeGoneError()
    for _ in range(5):
        ((name, ref),) = keeper.match(1)
        list(keeper.was_started(name, ref))
    workforce.error = ActorDiedError()  # killed by somebody else: several times are chance
    for _ in range(5):
        ((name, ref),) = keeper.match(1)
        list(keeper.was_started(name, ref))
    workforce.error = None
    ((name, ref),) = keeper.match(1)
    assert list(keeper.was_started(name, ref))
    keeper.retire(name)
    workforce.error = ActorDiedError(RayTaskError("init", "frames", ValueError("no weights")))
    for _ in range(2):
        ((name, ref),) = keeper.match(1)
        list(keeper.was_started(name, ref))
    ((name, ref),) = keeper.match(1)
    with pytest.raises(ReplicaError, match="3 Replicas in a row could not be started"):
        list(keeper.was_started(name, ref))


def test_a_cluster_without_room_is_told_once(
    heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    keeper, _, _ = keeper_of(ReplicaSize(1, 3, 0), heard)
    list(keeper.begin(1))
    keeper.tell_starvation()
    assert heard == []
    now[0] = 61.0
    keeper.tell_starvation()
    keeper.tell_starvation()
    (warning,) = heard
    assert isinstance(warning, Warned)
    assert "each asks for 3 CPUs and 0 GPUs" in warning.text


def test_replicas_that_are_always_killed_as_they_start_end_the_job(heard: list[Event]) -> None:
    keeper, _, workforce = keeper_of(ReplicaSize(1, 1, 0), heard)
    workforce.error = ActorDiedError()

    def try_on() -> None:
        for _ in range(99):
            ((name, ref),) = keeper.match(1)
            list(keeper.was_started(name, ref))

    with pytest.raises(ReplicaError, match="12 Replicas in a row"):
        try_on()


def test_one_of_the_replicas_that_leave_no_cpu_to_read_with_is_ended(heard: list[Event]) -> None:
    keeper, pool, workforce = keeper_of(ReplicaSize(3, 1, 0.0, 1), heard)
    for name, ref in list(keeper.match(2)):
        list(keeper.was_started(name, ref))
    assert list(keeper.make_room()) == [ReplicaGone("replica-1", "it was ended to make room")]
    assert pool.ended == ["replica-1"]
    assert list(keeper.match(None)) == []  # for a while
    assert list(keeper.make_room()) == []  # the last one stays
    assert [type(one) for one in heard] == [Warned]
    workforce.cpus = 4.0  # a node has come: there is room again
    assert [name for name, _ in keeper.match(None)] == ["replica-2", "replica-3"]


def test_where_there_is_room_no_replica_is_ended_for_it(heard: list[Event]) -> None:
    keeper, pool, workforce = keeper_of(ReplicaSize(2, 1, 0.0), heard)
    for name, ref in list(keeper.match(2)):
        list(keeper.was_started(name, ref))
    workforce.is_crowded = False
    assert list(keeper.make_room()) == []
    assert pool.ended == []
