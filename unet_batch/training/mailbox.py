"""Mailbox: how events of Ray Train workers reach the driver's Listener while it waits."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import ray

from unet_batch.monitoring.events import Event, Listener

_POLL_S = 0.2


class Mailbox:
    """An actor that holds events until the driver takes them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def post(self, event: Event) -> None:
        """Add `event`."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call, oldest first."""
        events, self._events = self._events, []
        return events


class Relay:
    """Opens a Mailbox and tells `listen` what arrives: all of it, in order, from one thread.

    `mailbox` is the actor's handle, for the workers.
    """

    def __init__(self, listen: Listener) -> None:
        self._listen = listen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="train-relay", daemon=True)

    def __enter__(self) -> Self:
        self.mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._tell()

    def _run(self) -> None:
        while not self._ended.wait(_POLL_S):
            self._tell()

    def _tell(self) -> None:
        for event in ray.get(self.mailbox.take.remote()):
            self._listen(event)
