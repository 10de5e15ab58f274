"""The contract of a lease in every kind of store: one holder, and none that stays for ever."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from unet_batch.errors import ConflictError, StoreError
from unet_batch.storage.lease import Lease
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store

PATH, SPAN_S = "models/m/lease.json", 100.0


@dataclass
class Clock:
    """Time that passes only when somebody sleeps; `lives` renews while others do."""

    now: float = 0.0
    lives: Lease | None = None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.lives is not None:
            self.lives.renew()


def lease_on(store: ObjectStore, clock: Clock) -> Lease:
    return Lease(store, PATH, SPAN_S, clock=clock, sleep=clock.sleep)


def test_a_lease_that_was_released_is_free_at_once(store: ObjectStore) -> None:
    clock = Clock()
    for _ in range(2):
        lease = lease_on(store, clock)
        lease.acquire()
        lease.require()
        lease.release()
    assert clock.now == 0


def test_a_living_holder_is_told_from_a_dead_one_by_its_counter(store: ObjectStore) -> None:
    holder, clock = lease_on(store, Clock()), Clock(now=5000.0)
    holder.acquire()
    clock.lives = holder
    with pytest.raises(ConflictError, match="which is alive"):
        lease_on(store, clock).acquire()
    assert clock.now < 5000 + SPAN_S, "refused as soon as it was seen to live"


def test_a_dead_holders_lease_is_taken_after_its_span_by_the_waiters_own_clock(
    store: ObjectStore,
) -> None:
    dead, clock = lease_on(store, Clock(now=1e9)), Clock(now=-7.0)
    dead.acquire()
    told: list[str] = []
    lease_on(store, clock).acquire(tell=told.append)
    assert SPAN_S <= clock.now + 7 < 1.3 * SPAN_S
    assert len(told) == 1
    with pytest.raises(ConflictError):
        dead.renew()
    with pytest.raises(ConflictError, match="could not renew"):
        dead.require()


def test_a_holder_that_ends_in_time_is_waited_for(store: ObjectStore) -> None:
    holder, clock = lease_on(store, Clock()), Clock()
    holder.acquire()
    ends_at, lives = 1.2 * SPAN_S, clock.sleep

    def sleep(seconds: float) -> None:
        lives(seconds)
        if clock.now < ends_at:
            holder.renew()
        elif clock.now < ends_at + seconds:
            holder.release()

    waiter = Lease(store, PATH, SPAN_S, clock=clock, sleep=sleep)
    waiter.acquire(wait_s=5 * SPAN_S)
    assert ends_at <= clock.now < ends_at + SPAN_S
    with pytest.raises(ConflictError):
        holder.release()
    waiter.require()


def test_of_many_that_ask_at_once_one_holds_it(store: ObjectStore) -> None:
    def ask(_: int) -> bool:
        clock = Clock()
        lease = Lease(store, PATH, SPAN_S, clock=clock, sleep=clock.sleep)
        return lease._take(None, "")

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(ask, range(6))) == 1


def test_a_holder_that_cannot_renew_knows_that_it_may_have_lost(tmp_path: Path) -> None:
    clock = Clock()
    lease = lease_on(open_store(tmp_path), clock)
    lease.acquire()
    clock.now = SPAN_S - 1
    lease.require()
    clock.now = SPAN_S
    with pytest.raises(ConflictError, match="could not renew its lease in time"):
        lease.require()


def test_a_renewal_whose_answer_was_lost_is_no_loss_of_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clock = open_store(tmp_path), Clock()
    lease = lease_on(store, clock)
    lease.acquire()
    swap = type(store).compare_and_swap

    def unanswered(self: ObjectStore, path: str, content: bytes, version: str) -> None:
        swap(self, path, content, version)
        raise StoreError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "compare_and_swap", unanswered)
        with pytest.raises(StoreError, match="no answer"):
            lease.renew()
    lease.renew()
    lease.renew()
    lease.require()


def test_what_is_no_lease_is_named(tmp_path: Path) -> None:
    open_store(tmp_path).put(PATH, b"{}")
    with pytest.raises(StoreError, match=r"lease\.json is no lease"):
        lease_on(open_store(tmp_path), Clock()).acquire()


def test_another_process_that_lives_is_refused_and_one_that_is_killed_is_followed(
    tmp_path: Path,
) -> None:
    script = (
        "import sys, time; from unet_batch.storage.lease import Lease\n"
        "from unet_batch.storage.stores import open_store\n"
        f"with Lease(open_store(sys.argv[1]), {PATH!r}, 1.0).held():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        mine = Lease(open_store(tmp_path), PATH, 1.0)
        with pytest.raises(ConflictError, match="alive"):
            mine.acquire()
        other.kill()
    before = time.monotonic()
    with mine.held():
        mine.require()
        assert time.monotonic() - before >= 1.0, "not before its span was over"
