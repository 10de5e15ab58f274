"""What any machine can say and ask of the Jobs of an Archive, from its address alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from unet_batch.errors import NotFoundError, SpecError, StoreError
from unet_batch.monitoring.causes import Cause, cause_of
from unet_batch.monitoring.snapshot import progress_from_json, progress_to_json
from unet_batch.monitoring.tally import Progress
from unet_batch.planning.control import Wanted
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.kinds import KINDS
from unet_batch.side_by_side import each
from unet_batch.storage.archive import open_archive
from unet_batch.storage.job_folder import (
    JobFolder,
    JobRecord,
    JobRequest,
    Snapshot,
    SubmissionRecord,
    find_job,
    list_jobs,
    now,
)
from unet_batch.storage.ledger import Ledger, LedgerEntry
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store

SILENT_AFTER_S = 60.0
"""A driver tells of itself every 5 s: one that was silent for so long is lost, or cut off."""

SHOWN_VOLUMES = 20
"""Of a group of failures that are named; `ledger` has all."""

State = Literal[
    "submitted", "running", "pausing", "cancelling", "paused", "cancelled", "done", "incomplete",
    "failed", "lost",
]  # fmt: skip
ENDED: frozenset[State] = frozenset({"paused", "cancelled", "done", "incomplete", "failed", "lost"})


@dataclass(frozen=True, slots=True)
class JobView:
    """One Job as it stands.

    Attributes
    ----------
    state: `lost` is a driver that fell silent before its end, `incomplete` one that ended with
        more Volumes quarantined than its Spec allows.
    wanted, wanted_by: what was asked last, and by whom and when; empty where nobody asked.
    heard_s: seconds since its driver last told of itself, by this machine's clock.
    reason: why it ended before its end.
    submission: where it was sent last.
    """

    job: str
    kind: str
    archive: str
    state: State
    wanted: Wanted
    wanted_by: str
    created_at: str
    heard_s: float | None
    host: str
    reason: str
    submission: SubmissionRecord | None
    progress: Progress

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        sent = self.submission
        return {
            "job": self.job,
            "kind": self.kind,
            "archive": self.archive,
            "state": self.state,
            "wanted": self.wanted,
            "wanted_by": self.wanted_by,
            "created_at": self.created_at,
            "heard_s": self.heard_s,
            "host": self.host,
            "reason": self.reason,
            "submission": sent and {"id": sent.id, "address": sent.address, "log": sent.log},
            "progress": progress_to_json(self.progress),
        }


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """The quarantined Volumes of one cause: how many, some of them, and the reason of the first."""

    cause: Cause
    count: int
    volumes: tuple[str, ...]
    reason: str


def open_job(text: str, archive: str | None) -> JobFolder:
    """The Job `text` of `archive`: its id, the beginning of it, or ARCHIVE/jobs/ID.

    Raises SpecError, NotFoundError or StoreError that say what to give.
    """
    address, separator, name = text.rstrip("/").rpartition("/jobs/")
    if separator:
        archive, text = address, name
    if archive is None:
        raise SpecError(
            f"Job {text!r}: of which Archive? Give --archive URL, or set UNET_BATCH_ARCHIVE"
        )
    return find_job(_store_of(archive), text)


def all_jobs(archive: str) -> list[JobView]:
    """The Jobs of an Archive, the one heard of last first. Raises NotFoundError, StoreError."""
    store = _store_of(archive)
    views = each(lambda one: _view_or_none(JobFolder(store, one)), list_jobs(store))
    known = [one for one in views if one is not None]
    never = float("inf")
    return sorted(known, key=lambda one: never if one.heard_s is None else one.heard_s)


def view(folder: JobFolder) -> JobView:
    """A Job as it stands."""
    record, request, last = folder.record(), folder.request(), folder.snapshot()
    progress = progress_from_json(last.progress) if last else Progress()
    return JobView(
        job=folder.id,
        kind=record.kind,
        archive=folder.store.url,
        state=_state(record, request, last),
        wanted=request.wanted,
        wanted_by=f"{request.by}, {request.at}" if request.by else "",
        created_at=record.created_at,
        heard_s=_age_s(last.at) if last else None,
        host=last.host.partition(":")[0] if last else "",
        reason=last.reason if last else "",
        submission=record.submissions[-1] if record.submissions else None,
        progress=progress,
    )


def watch(folder: JobFolder, *, every_s: float = 2.0) -> Iterator[JobView]:
    """A Job as it stands, again and again until it has ended."""
    while True:
        seen = view(folder)
        yield seen
        if seen.state in ENDED:
            return
        time.sleep(every_s)


def is_alive(folder: JobFolder) -> bool:
    """Whether a driver runs the Job, as far as one can tell from here."""
    last = folder.snapshot()
    return last is not None and last.state == "running" and _age_s(last.at) < SILENT_AFTER_S


def pause(folder: JobFolder) -> JobView:
    """Ask for a pause: the driver finishes the Volumes under way, and begins no more."""
    folder.want("pause")
    return view(folder)


def cancel(folder: JobFolder) -> JobView:
    """Ask for the end. Where no driver runs, the Volumes that are left are accounted for here."""
    folder.want("cancel")
    record = folder.record()
    if record.kind == "segment" and not is_alive(folder):
        _cancel_left(folder, record)
    return view(folder)


def failures(folder: JobFolder) -> list[FailureGroup]:
    """The quarantined Volumes by cause, the most frequent first."""
    found: defaultdict[Cause, list[LedgerEntry]] = defaultdict(list)
    for entry in Ledger(folder.store, folder.id).failures():
        found[cause_of(entry.reason)].append(entry)
    groups = [
        FailureGroup(
            cause,
            len(entries),
            tuple(entry.volume_id for entry in entries[:SHOWN_VOLUMES]),
            entries[0].reason,
        )
        for cause, entries in found.items()
    ]
    return sorted(groups, key=lambda group: -group.count)


def account(folder: JobFolder, volume_id: str) -> LedgerEntry:
    """What the Ledger says of one Volume. Raises NotFoundError where it says nothing."""
    entry = Ledger(folder.store, folder.id).entry(volume_id)
    if entry is None:
        raise NotFoundError(f"{folder.id}: its Ledger says nothing of a Volume {volume_id!r}")
    return entry


def spec_of(record: JobRecord) -> SpecModel:
    """The Spec that a Job was last run with."""
    if record.kind not in KINDS:
        raise SpecError(f"{record.id}: Jobs of kind {record.kind!r} cannot be run from here")
    if private := [one for one in KINDS[record.kind].private if one not in record.spec]:
        raise SpecError(
            f"{record.id}: where its scans lie ({', '.join(private)}) is not kept with the data, as"
            f" folders may be called by a patient's name; run the same `unet-batch {record.kind}`"
            " again: it does only what is left"
        )
    return KINDS[record.kind].spec.model_validate(record.spec)


def _store_of(archive: str) -> ObjectStore:
    """The store of an Archive that is there."""
    return open_store(open_archive(archive).url)


def _view_or_none(folder: JobFolder) -> JobView | None:
    """None where the Job was run by no command that keeps a record of it, or it is damaged."""
    try:
        return view(folder)
    except StoreError:
        return None


def _state(record: JobRecord, request: JobRequest, last: Snapshot | None) -> State:
    sent = record.submissions[-1].at if record.submissions else ""
    if last is None or (sent > last.at and last.state != "running"):
        return "cancelled" if request.wanted == "cancel" else "submitted"
    if last.state != "running":
        stopped = request.wanted == "cancel" and last.state in ("paused", "failed")
        return "cancelled" if stopped else last.state  # type: ignore[return-value]
    if _age_s(last.at) >= SILENT_AFTER_S:
        return "cancelled" if request.wanted == "cancel" else "lost"
    going: dict[Wanted, State] = {"pause": "pausing", "cancel": "cancelling", "run": "running"}
    return going[request.wanted]


def _age_s(at: str) -> float:
    """Seconds from `at` until now; 0 where the other clock is ahead."""
    try:
        return max(0.0, time.time() - datetime.fromisoformat(at).timestamp())
    except ValueError:
        return 0.0


def _cancel_left(folder: JobFolder, record: JobRecord) -> None:
    archive, spec = open_archive(folder.store.url), record.spec
    with Ledger(folder.store, folder.id) as ledger:
        settled = set(ledger.table("volume_id")["volume_id"].to_pylist())
        patterns: Any = spec.get("volumes") or ("*",)
        where: Any = spec.get("where")
        for volume_id in archive.catalog.ids(patterns, where):
            if volume_id not in settled:
                reason = "the Job was cancelled while nobody ran it"
                ledger.record(LedgerEntry(volume_id, "cancelled", reason, finished_at=now()))
