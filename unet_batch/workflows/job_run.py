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
from collections import deque
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
from unet_batch.planning.specs.kinds import anchored, job_id, kept_fields
from unet_batch.storage import paths
from unet_batch.storage.job_folder import JobFolder, Snapshot, now
from unet_batch.storage.lease import Lease, LeaseState
from unet_batch.storage.ledger import Ledger, LedgerEntry
from unet_batch.storage.stores import open_store

KEPT_LINES = 2000
"""Of what a run says; the Ledger has the rest."""

PROGRESS_LINE_S = 30.0
WRITERS = frozenset({"ingest", "segment"})
"""Kinds of Job whose results go into the Archive: where that cannot be written, they cannot run."""

SUBMISSION_VARIABLE = "UNET_BATCH_SUBMISSION"
RESUME_VARIABLE = "UNET_BATCH_RESUME"
"""Set where the submitter could not reach the Archive, to note there that the Job shall run."""

JOB_SERVER_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's job server sets it (its name ends like that) for the drivers that it begins."""


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
    wait_s: how long another driver of the Job, which is alive, is waited for.
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
        wait_s: float = 0.0,
    ) -> None:
        self._kind, self._spec = kind, anchored(kind, spec)
        store = open_store(self._spec.model_dump()["archive"])
        self.folder = JobFolder(store, job_id(kind, spec))
        self.control, self._is_gentle = control or Control(), control is not None
        self._is_resumed, self._rhythm, self._tell = is_resumed, rhythm or Rhythm(), tell
        self._wait_s = wait_s
        self._tally, self._lines = Tally(), deque[str](maxlen=KEPT_LINES)
        self._stack, self._beat = ExitStack(), 0
        self._is_begun = self._is_unkept = self._is_usurped = False
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._lease = Lease(store, self.folder.lease_path, self._rhythm.span_s)
        self._ended, self._interrupted = threading.Event(), False
        self._main = threading.get_ident()
        self._ledger = Ledger(store, self.folder.id)

    def __enter__(self) -> Self:
        """Take the lease. An Archive that is still to be made is begun by its JobStarted.

        Raises ConflictError where another driver runs the Job.
        """
        if self.folder.store.exists(paths.ARCHIVE_DOCUMENT):
            self._begin_if_writable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_begun:
            return
        self._ended.set()
        self._watcher.join()
        with self._stack, self._ledger:  # the lease goes last
            state, reason = self._end_of(error)
            with suppress(StoreError):
                self._put(state, reason)
        # Ray Train makes a SystemExit of an interrupt.
        if self._interrupted and isinstance(error, KeyboardInterrupt | SystemExit):
            why = "another driver has taken over" if self._is_usurped else "as was asked for"
            raise JobStoppedError(f"{self.folder.id}: {state}, {why}") from None

    def __call__(self, event: Event) -> None:
        """Add one event."""
        if isinstance(event, JobStarted) and not self._is_begun and not self._is_unkept:
            self._begin_if_writable()
        self._tally(event)
        if isinstance(event, VolumeFinished) and self._is_begun and self._kind != "segment":
            self._account(event)
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

    def _account(self, event: VolumeFinished) -> None:
        """Enter a Volume into the Ledger; segmenting does so itself, and knows more."""
        self._ledger.record(
            LedgerEntry(
                volume_id=event.volume_id,
                outcome=event.outcome,
                reason=event.reason,
                seconds=event.seconds,
                num_voxels=event.num_voxels,
                finished_at=now(),
                spec_hash=self._spec.digest(),
            )
        )

    # ---- the beginning --------------------------------------------------------------------

    def _begin_if_writable(self) -> None:
        """Begin; a Job that only reads the Archive does without a record where it must."""
        try:
            self._begin()
        except ConflictError:
            raise
        except StoreError as error:
            if self._kind in WRITERS:
                raise
            self._is_unkept = True
            self._tell(
                f"this Job is not kept with its Archive, and can be watched here only: {error}"
            )

    def _begin(self) -> None:
        last = self.folder.snapshot()
        _free_where_dead(self.folder, last)
        with ExitStack() as stack:
            stack.enter_context(self._lease.held(wait_s=self._wait_s, tell=self._tell))
            if not self._is_gentle:
                _hear_interrupts(stack)
            self.folder.begin(self._kind, kept_fields(self._kind, self._spec))
            if self._is_resumed:
                self.folder.want("run")
            self._check_wanted()
            self._beat = last.beat if last else 0
            self._lines.extend(self.folder.log().splitlines(keepends=True))
            self._say(f"begun by process {os.getpid()} of {socket.gethostname()}")
            self._put("running")
            self._stack = stack.pop_all()
        self._is_begun = True
        self._watcher.start()

    def _check_wanted(self) -> None:
        """What is wanted from the start. Workflows that ask no Control then do not start."""
        self.control.wanted = wanted = self.folder.request().wanted
        if wanted != "run" and not self._is_gentle:
            raise JobStoppedError(
                f"{self.folder.id}: somebody asked to {wanted} it; `unet-batch resume"
                f" {self.folder.id}` lets it go on"
            )

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
            self.control.wanted, self._is_usurped = "pause", True
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
            self.folder.put_log("".join(self._lines))

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
        elif self._is_gentle and progress.volumes_left:
            state = "paused"  # and somebody wanted it to run again, too late for this run
        elif progress.outcomes.get("quarantined", 0) > allowed:
            state = "incomplete"
        self._say(f"{state}: {describe(progress)}")
        return state, ""


def is_obedient() -> bool:
    """Whether this process does what was asked of the Job before it began.

    A driver that a machine began does, after a head was lost say: whoever submitted it has said
    already that the Job shall run, and somebody else may have wanted otherwise since.
    """
    began_by_machine = JOB_SERVER_VARIABLE in os.environ or SUBMISSION_VARIABLE in os.environ
    return began_by_machine and not os.environ.get(RESUME_VARIABLE)


def submission_of_environment() -> str:
    """Ray's submission id of this process; empty where no job server began it."""
    return os.environ.get(SUBMISSION_VARIABLE, "")


def _hear_interrupts(stack: ExitStack) -> None:
    """Let SIGINT stop this process: what a script runs in the background is born deaf to it."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGINT, before)


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
