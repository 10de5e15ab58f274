"""Lease: one holder at a time, across machines, by compare-and-swap in a store.

The clocks of two machines need not agree. The holder adds one to a counter every so often;
whoever waits watches, and only a counter that stood still for the lease's whole span, by the
waiter's own monotonic clock, is taken over:

    holder   1 . 2 . 3 . 4 . † (dies)
    waiter     looks: 2, 3, 4, 4, 4, 4 ... for span_s: takes it over

A holder that could not renew for that long (a store out of reach, a machine asleep) counts its
own lease as lost, and finds out before it writes what only the holder may write.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pydantic import ValidationError

from unet_batch.errors import ConflictError, NotFoundError, StoreError
from unet_batch.planning.specs.base import SpecModel
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.who import Note

RENEWALS = 4
"""Renewals within a span: three may fail before the lease counts as lost."""


def _tell_nobody(text: str) -> None:
    del text


class LeaseState(SpecModel):
    """What is stored: who holds it (empty: nobody), and a counter that a living holder moves.

    `note` is for people: who and since when.
    """

    owner: str
    count: int
    span_s: float
    note: str = ""


@dataclass
class Lease:
    """A lease on `path` of `store`. Times in seconds; `clock` is monotonic and the waiter's own."""

    store: ObjectStore
    path: str
    span_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    _token: str = field(default="", init=False)
    _count: int = field(default=0, init=False)
    _renewed_at: float = field(default=0.0, init=False)
    _is_lost: bool = field(default=False, init=False)

    @contextmanager
    def held(
        self, *, wait_s: float = 0.0, tell: Callable[[str], None] = _tell_nobody
    ) -> Iterator[None]:
        """Hold the lease while the context is open; a thread renews it. See `acquire`."""
        self.acquire(wait_s=wait_s, tell=tell)
        done = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with suppress(ConflictError, StoreError):  # it goes stale by itself
                self.release()

    def acquire(self, *, wait_s: float = 0.0, tell: Callable[[str], None] = _tell_nobody) -> None:
        """Take the lease: at once where it is free, or when its holder has shown no life.

        A holder that lives is waited for until `wait_s` are over; `tell` hears of it once.
        Raises ConflictError that names the holder.
        """
        watch, deadline = _Watch(self.clock), self.clock() + wait_s
        while True:
            state, token = self._read()
            if state is None or not state.owner or watch.is_stale(state):
                if self._take(state, token):
                    return
                continue
            if watch.has_moved and self.clock() >= deadline:
                raise ConflictError(
                    f"{self.store.url}/{self.path}: held by another run, {state.note}, which is"
                    " alive. Wait for its end, or let this one wait (lease.wait_s)"
                )
            if watch.num_looks == 1:
                tell(f"waiting for another run, {state.note}")
            self.sleep(min(self.span_s, state.span_s) / (2 * RENEWALS))

    def renew(self) -> None:
        """Show life. Raises ConflictError where another took the lease meanwhile."""
        self._write(self._count + 1)

    def require(self) -> None:
        """Raise ConflictError where the lease is lost, or may be by now."""
        if self._is_lost or self.clock() - self._renewed_at >= self.span_s:
            raise ConflictError(
                f"{self.store.url}/{self.path}: this run could not renew its lease in time, and"
                " another may go on in its place; the same command joins in again"
            )

    def release(self) -> None:
        """Let others have it. Raises ConflictError where another took it meanwhile."""
        state = LeaseState(owner="", count=self._count + 1, span_s=self.span_s)
        self.store.compare_and_swap(self.path, _to_bytes(state), self._token)

    def _read(self) -> tuple[LeaseState | None, str]:
        try:
            content, token = self.store.get_versioned(self.path)
        except NotFoundError:
            return None, ""
        try:
            return LeaseState.model_validate_json(content), token
        except ValidationError as error:
            raise StoreError(
                f"{self.store.url}/{self.path} is no lease ({error}); remove it where nothing"
                " is being retrained"
            ) from error

    def _take(self, state: LeaseState | None, token: str) -> bool:
        """Whether we hold it now; not where another was faster."""
        self._token, self._is_lost = token, False
        try:
            self._write(state.count + 1 if state else 1, is_first=state is None)
        except ConflictError:
            return False
        return True

    def _write(self, count: int, *, is_first: bool = False) -> None:
        """Store our next state, and learn what a later swap has to name."""
        begun, note = self.clock(), Note.now("")
        state = LeaseState(
            owner=self.owner, count=count, span_s=self.span_s, note=f"{note.by}, {note.at}"
        )
        conflict: ConflictError | None = None
        try:
            if is_first:
                self.store.put_if_absent(self.path, _to_bytes(state))
            else:
                self.store.compare_and_swap(self.path, _to_bytes(state), self._token)
        except ConflictError as error:
            conflict = error  # perhaps with our own earlier write, whose answer was lost
        stored, token = self._read()
        if stored is None or stored.owner != self.owner:
            self._is_lost = True
            raise conflict or ConflictError(f"{self.store.url}/{self.path}: taken by another")
        self._token, self._count = token, stored.count
        if conflict is None:
            self._renewed_at = begun

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(self.span_s / RENEWALS):
            try:
                self.renew()
            except ConflictError:
                return  # `require` tells it
            except StoreError:
                continue  # out of reach for a while; `require` tells when it was too long


@dataclass
class _Watch:
    """How long, by our own clock, a lease has shown no life."""

    clock: Callable[[], float]
    num_looks: int = 0
    has_moved: bool = False
    _seen: tuple[str, int] | None = None
    _since: float = 0.0

    def is_stale(self, state: LeaseState) -> bool:
        """Look at the lease; whether it stood still for its whole span."""
        now, seen = self.clock(), (state.owner, state.count)
        self.num_looks += 1
        if seen != self._seen:
            self.has_moved = self._seen is not None
            self._seen, self._since = seen, now
        return now - self._since >= state.span_s


def _to_bytes(state: LeaseState) -> bytes:
    return state.model_dump_json().encode() + b"\n"
