"""JobRun: one run of a Job, known to all who can read its Archive.

While it is open the run holds the Job's lease, so that of two drivers one wins; puts a snapshot
with the data every few seconds, from which any machine shows the Job; and looks there for what
is wanted of it. Segmenting stops between Volumes as its Control says; workflows that ask no
Control are interrupted where they are, which costs what they had begun.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from unet_batch.errors import (
    ConflictError,
    JobStoppedError,
    NotFoundError,
    StoreError,
    reason_of,
)
from unet_batch.monitoring.events import Event, JobFinished, JobStarted, VolumeFinished, Warned
from unet_batch.monitoring.progress import describe
from unet_batch.monitoring.snapshot import progress_to_json
from unet_batch.monitoring.tally import Tally
from unet_batch.planning.control import Control
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.kinds import anchored, job_id
from unet_batch.storage import paths
from unet_batch.storage.job_folder import JobFolder, Snapshot, now
from unet_batch.storage.lease import Lease, LeaseState
from unet_batch.storage.stores import open_store

LOG_CHARACTERS = 200_000
PROGRESS_LINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a run looks and tells, in seconds; `span_s` is that of its lease."""

    look_s: float = 2.0
    tell_s: float = 5.0
    span_s: float = 20.0


class JobRun:
    """One run of the Job that `spec` asks for. A Listener; a context that lasts as long as it.

    Parameters
    ----------
    kind, spec: what is run.
    control: told what is wanted, for workflows that ask it; None: they are interrupted.
    is_resumed: whether whoever began this run wants the Job to run, whatever was asked before.
    tell: hears a line where something has to be waited for.
    """

    def __init__(
        self,
        kind: str,
        spec: SpecModel,
        *,
        control: Control | None = None,
        is_resumed: bool = True,
        rhythm: Rhythm | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._kind, self._spec = kind, anchored(kind, spec)
        store = open_store(self._spec.model_dump()["archive"])
        self.folder = JobFolder(store, job_id(kind, spec))
        self.control, self._is_gentle = control or Control(), control is not None
        self._is_resumed, self._rhythm, self._tell = is_resumed, rhythm or Rhythm(), tell
        self._tally, self._lines = Tally(), list[str]()
        self._stack, self._is_begun, self._beat = ExitStack(), False, 0
        self._lease = Lease(store, self.folder.lease_path, self._rhythm.span_s)
        self._ended, self._interrupted = threading.Event(), False
        self._main = threading.get_ident()

    def __enter__(self) -> Self:
        """Take the lease. An Archive that is still to be made is begun by its JobStarted.

        Raises ConflictError where another driver runs the Job.
        """
        if self.folder.store.exists(paths.ARCHIVE_DOCUMENT):
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if not self._is_begun:
            return
        with self._stack:  # the lease goes last
            state, reason = self._end_of(error)
            with suppress(StoreError):
                self._put(state, reason)
        if self._interrupted and isinstance(error, KeyboardInterrupt):
            raise JobStoppedError(f"{self.folder.id}: {state}, as was asked for") from None

    def __call__(self, event: Event) -> None:
        """Add one event."""
        if isinstance(event, JobStarted) and not self._is_begun:
            self._begin()
        self._tally(event)
        match event:
            case VolumeFinished(volume_id, "quarantined", reason):
                self._say(f"quarantined: {volume_id}: {reason}")
            case Warned(text):
                self._say(f"warning: {text}")

    def renamed(self, event: Event) -> Event:
        """The event under the Job's own id, by which all who watch it know it."""
        if isinstance(event, JobStarted | JobFinished):
            return replace(event, job=self.folder.id)
        return event

    # ---- the beginning --------------------------------------------------------------------

    def _begin(self) -> None:
        last = self.folder.snapshot()
        _free_where_dead(self.folder, last)
        self._stack.enter_context(self._lease.held(tell=self._tell))
        self._is_begun = True
        self._beat = last.beat if last else 0
        self._lines = self.folder.log().splitlines(keepends=True)
        self.folder.begin(self._kind, self._spec.model_dump(mode="json"))
        if self._is_resumed:
            self.folder.want("run")
        self._look()
        self._say(f"begun by {_here()}, process {os.getpid()}")
        self._put("running")
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        self._stack.callback(thread.join)

    # ---- while it runs --------------------------------------------------------------------

    def _watch(self) -> None:
        """Look and tell until the end; a store out of reach for a while stops nothing."""
        since_told = since_line = 0.0
        while not self._ended.wait(self._rhythm.look_s):
            since_told += self._rhythm.look_s
            since_line += self._rhythm.look_s
            if since_line >= PROGRESS_LINE_S:
                since_line = 0.0
                self._say(describe(self._tally.progress()))
            with suppress(StoreError):
                self._look()
                if since_told >= self._rhythm.tell_s:
                    since_told = 0.0
                    self._put("running")

    def _look(self) -> None:
        """Learn what is wanted; stop where another driver has taken over."""
        self.control.wanted = self.folder.request().wanted
        try:
            self._lease.require()
        except ConflictError:
            self.control.wanted = "pause"
        if self.control.wanted != "run" and not self._is_gentle and not self._interrupted:
            self._interrupted = True
            signal.pthread_kill(self._main, signal.SIGINT)

    def _say(self, line: str) -> None:
        self._lines.append(f"{now()} {line}\n")

    def _put(self, state: str, reason: str = "") -> None:
        with suppress(ConflictError):
            self._lease.require()
            self._beat += 1
            self.folder.put_snapshot(
                Snapshot(
                    state=state,
                    at=now(),
                    beat=self._beat,
                    host=_here(),
                    pid=os.getpid(),
                    owner=self._lease.owner,
                    submission=submission_of_environment(),
                    reason=reason,
                    progress=progress_to_json(self._tally.progress()),
                )
            )
            self.folder.put_log("".join(self._lines)[-LOG_CHARACTERS:])

    # ---- the end --------------------------------------------------------------------------

    def _end_of(self, error: BaseException | None) -> tuple[str, str]:
        """The state that the run ends in, and why."""
        progress, wanted = self._tally.progress(), self.control.wanted
        stopped = {"pause": "paused", "cancel": "cancelled", "run": ""}[wanted]
        if error is not None and not self._interrupted:
            reason = reason_of(error) if isinstance(error, Exception) else type(error).__name__
            self._say(f"failed: {reason}")
            return "failed", reason
        left = progress.volumes_left or progress.outcomes.get("cancelled", 0)
        allowed = getattr(self._spec, "allow_quarantined", 0)
        state = "done"
        if stopped and (left or error):
            state = stopped
        elif progress.outcomes.get("quarantined", 0) > allowed:
            state = "incomplete"
        self._say(f"{state}: {describe(progress)}")
        return state, ""


def is_restarted_by_machine() -> bool:
    """Whether Ray's job server began this process: then nobody may want the Job to run by now."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def submission_of_environment() -> str:
    """Ray's submission id of this process; empty where no job server began it."""
    return os.environ.get("UNET_BATCH_SUBMISSION", "")


def _free_where_dead(folder: JobFolder, last: Snapshot | None) -> None:
    """Free the lease of a driver that died on this machine, rather than wait for it to run out."""
    if last is None or not last.owner or last.host != _here() or psutil.pid_exists(last.pid):
        return
    with suppress(NotFoundError, ConflictError):
        content, version = folder.store.get_versioned(folder.lease_path)
        state = LeaseState.model_validate_json(content)
        if state.owner == last.owner:
            free = LeaseState(owner="", count=state.count + 1, span_s=state.span_s)
            folder.store.compare_and_swap(
                folder.lease_path, free.model_dump_json().encode(), version
            )


def _here() -> str:
    """This machine, boot and space of process ids: where a process id means one process."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]"))
    return ":".join(parts)
