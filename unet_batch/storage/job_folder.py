"""JobFolder: what is kept of a Job, beside its Ledger, so that any machine can show and resume it.

    jobs/<job id>/job.json           what it is: kind and Spec; who submitted it where
    jobs/<job id>/request.json       what is wanted of it: run, pause, cancel
    jobs/<job id>/snapshot.json      how far it is, put by its driver every few seconds
    jobs/<job id>/log.txt            the last lines that its driver said
    jobs/<job id>/driver.lease       who drives it
    jobs/<job id>/ledger/            see `ledger`

What several may write (job.json, request.json) changes by compare-and-swap; the snapshot and the
log have one writer, the driver that holds the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from unet_batch.errors import NotFoundError, SpecError, StoreError
from unet_batch.planning.control import WANTED, Wanted
from unet_batch.planning.volume_info import Json
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store
from unet_batch.storage.who import Note

Form = TypeVar("Form")

KEPT_SUBMISSIONS = 20
MAX_LOG_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class SubmissionRecord:
    """One time that a Job was handed to a machine.

    `id` is Ray's submission id, or says that a process was started; `address` the Jobs server,
    empty for a process of one's own, whose output is the file `log`.
    """

    id: str
    address: str = ""
    log: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a Job is: its kind and its Spec as plain values, with absolute paths."""

    id: str
    kind: str
    spec: Mapping[str, Json]
    created_at: str = ""
    submissions: tuple[SubmissionRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is wanted of a Job, since when, and who said so."""

    wanted: Wanted = "run"
    at: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A Job as its driver saw it: its `state`, and the sums as `monitoring.snapshot` reads them.

    `beat` grows with every snapshot; `at` is the driver's clock. `host`, `pid` and `owner` say
    which process wrote it, and with which lease. `reason` says why the run ended where it did not
    finish; `submission` under which of Ray's ids it ran.
    """

    state: str
    at: str
    beat: int = 0
    host: str = ""
    pid: int = 0
    owner: str = ""
    submission: str = ""
    reason: str = ""
    progress: Mapping[str, Json] = field(default_factory=dict)


class JobFolder:
    """The folder of one Job, in the store of its Archive."""

    def __init__(self, store: ObjectStore, job_id: str) -> None:
        self.store, self.id = store, job_id
        self.path = paths.job_path(job_id)

    @property
    def lease_path(self) -> str:
        """Where the lease of the Job's driver lies."""
        return f"{self.path}/driver.lease"

    def begin(self, kind: str, spec: Mapping[str, Json]) -> None:
        """Note the Job, or its Spec anew: of one Job, the means may change from run to run."""
        self._change(
            lambda old: (
                replace(old, spec=spec) if old else JobRecord(self.id, kind, spec, created_at=now())
            )
        )

    def submitted(self, submission: SubmissionRecord) -> None:
        """Note where the Job was sent. Raises NotFoundError where it never began."""
        entry = replace(submission, at=now())
        self._change(lambda old: self._with(old, entry))

    def record(self) -> JobRecord:
        """What the Job is. Raises NotFoundError where there is none of this id."""
        return self._record(self.store.get(f"{self.path}/job.json"))

    def want(self, wanted: Wanted) -> JobRequest:
        """Ask for `wanted` from now on; what was asked before, where it is the same."""
        answer = JobRequest()

        def change(content: bytes | None) -> bytes:
            nonlocal answer
            answer = self._request(content)
            if content is not None and answer.wanted == wanted:
                return content
            answer = JobRequest(wanted, now(), Note.now("").by)
            return ome_zarr.to_bytes(asdict(answer))

        self.store.update(f"{self.path}/request.json", change)
        return answer

    def request(self) -> JobRequest:
        """What is wanted of the Job; to run, where nobody said anything."""
        try:
            return self._request(self.store.get(f"{self.path}/request.json"))
        except NotFoundError:
            return JobRequest()

    def put_snapshot(self, snapshot: Snapshot) -> None:
        """Show how far the Job is."""
        self.store.put(f"{self.path}/snapshot.json", ome_zarr.to_bytes(asdict(snapshot)))

    def snapshot(self) -> Snapshot | None:
        """How far the Job was when its driver last said so; None where none ever did."""
        try:
            content = self.store.get(f"{self.path}/snapshot.json")
        except NotFoundError:
            return None
        return _read(Snapshot, content, f"{self.store.url}/{self.path}/snapshot.json")

    def put_log(self, text: str) -> None:
        """Keep the end of what the driver said."""
        content = text.encode(errors="replace")[-MAX_LOG_BYTES:]
        self.store.put(f"{self.path}/log.txt", content)

    def log(self) -> str:
        """The end of what the Job's drivers said; empty where none spoke."""
        try:
            return self.store.get(f"{self.path}/log.txt").decode(errors="replace")
        except NotFoundError:
            return ""

    def _change(self, change: Callable[[JobRecord | None], JobRecord]) -> None:
        self.store.update(
            f"{self.path}/job.json",
            lambda content: ome_zarr.to_bytes(
                asdict(change(None if content is None else self._record(content)))
            ),
        )

    def _with(self, record: JobRecord | None, entry: SubmissionRecord) -> JobRecord:
        if record is None:
            raise NotFoundError(f"no Job {self.id!r} in {self.store.url}")
        kept = (*record.submissions, entry)[-KEPT_SUBMISSIONS:]
        return replace(record, submissions=kept)

    def _record(self, content: bytes) -> JobRecord:
        where = f"{self.store.url}/{self.path}/job.json"
        record = _read(JobRecord, content, where)
        sent: Any = record.submissions
        return replace(record, submissions=tuple(SubmissionRecord(**one) for one in sent))

    def _request(self, content: bytes | None) -> JobRequest:
        if content is None:
            return JobRequest()
        where = f"{self.store.url}/{self.path}/request.json"
        request = _read(JobRequest, content, where)
        if request.wanted not in WANTED:
            raise StoreError(f"{where}: wanted {request.wanted!r}, expected {', '.join(WANTED)}")
        return request


def note_job(archive: str, job_id: str, kind: str, spec: Mapping[str, Json]) -> JobFolder | None:
    """Note a Job with its Archive, and that it is wanted to run, before anything runs.

    None where the Archive is out of reach from here, or still to be made: the Job's driver will
    note it.
    """
    store = open_store(archive)
    folder = JobFolder(store, job_id)
    try:
        if not store.exists(paths.ARCHIVE_DOCUMENT):
            return None
        folder.begin(kind, spec)
        folder.want("run")
    except StoreError:
        return None
    return folder


def list_jobs(store: ObjectStore) -> list[str]:
    """Ids of all Jobs of the Archive in `store`, sorted."""
    return store.list_folders("jobs")


def find_job(store: ObjectStore, text: str) -> JobFolder:
    """The Job of this id, or whose id begins so. Raises NotFoundError or SpecError."""
    ids = list_jobs(store)
    found = [text] if text in ids else [one for one in ids if one.startswith(text)]
    if len(found) == 1:
        return JobFolder(store, found[0])
    if found:
        raise SpecError(f"{text!r} may be {', '.join(found[:5])}; say more of it")
    raise NotFoundError(
        f"no Job {text!r} in {store.url}; `unet-batch jobs --archive {store.url}` lists all"
    )


def now() -> str:
    """The present time in UTC, in ISO 8601, to the second."""
    return Note.now("").at


def _read(form: type[Form], content: bytes, where: str) -> Form:
    document = ome_zarr.read_document(content, where)
    try:
        return form(**document)
    except TypeError as error:
        raise StoreError(
            f"{where}: not written by this version of unet-batch ({error}); use the one that did"
        ) from error
