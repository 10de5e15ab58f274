"""What any machine says and asks of the Jobs of an Archive, none of which it runs itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from unet_batch.errors import NotFoundError, SpecError
from unet_batch.formats.scan import Scan
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.job_folder import JobFolder, Snapshot, SubmissionRecord
from unet_batch.storage.ledger import Ledger, LedgerEntry
from unet_batch.storage.stores import open_store
from unet_batch.workflows import jobs

NAME = "segment-liver-12345678"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    for name in ("a", "b", "c"):
        voxels = np.full((1, 4, 4, 4), ord(name), np.int16)
        archive.write_scan(Scan(name, voxels, np.eye(4), ("CT",), "CT"), source={})
    return archive


@pytest.fixture
def folder(archive: Archive) -> JobFolder:
    folder = JobFolder(open_store(archive.url), NAME)
    spec = SegmentSpec(archive=archive.url, model="/models/liver", labels="liver")
    folder.begin("segment", spec.model_dump(mode="json"))
    return folder


def seen(folder: JobFolder, state: str, *, ago_s: float = 0.0, **more: object) -> None:
    at = (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat(timespec="seconds")
    folder.put_snapshot(Snapshot(state, at, **more))  # type: ignore[arg-type]


def test_a_job_is_found_by_its_archive_or_by_its_whole_address(folder: JobFolder) -> None:
    url = folder.store.url
    assert jobs.open_job("segment-l", url).id == NAME
    assert jobs.open_job(f"{url}/jobs/{NAME}", None).id == NAME
    with pytest.raises(SpecError, match="of which Archive"):
        jobs.open_job(NAME, None)
    with pytest.raises(NotFoundError, match="no Archive at"):
        jobs.open_job(NAME, f"{url}-not")


@pytest.mark.parametrize(
    ("state", "ago_s", "wanted", "shown"),
    [
        ("running", 1, "run", "running"),
        ("running", 1, "pause", "pausing"),
        ("running", 1, "cancel", "cancelling"),
        ("running", 600, "run", "lost"),
        ("running", 600, "cancel", "cancelled"),
        ("paused", 600, "pause", "paused"),
        ("paused", 600, "cancel", "cancelled"),
        ("done", 600, "cancel", "done"),
        ("failed", 600, "run", "failed"),
    ],
)
def test_the_state_follows_from_what_was_told_and_asked(
    folder: JobFolder, state: str, ago_s: float, wanted: str, shown: str
) -> None:
    seen(folder, state, ago_s=ago_s)
    folder.want(wanted)  # type: ignore[arg-type]
    assert jobs.view(folder).state == shown


def test_a_job_that_was_sent_again_is_submitted_until_its_driver_speaks(folder: JobFolder) -> None:
    assert jobs.view(folder).state == "submitted"
    seen(folder, "paused", ago_s=100)
    folder.submitted(SubmissionRecord("s-1", "http://head:8265"))
    assert jobs.view(folder).state == "submitted"
    seen(folder, "running", ago_s=-1)
    assert jobs.view(folder).state == "running"


def test_all_jobs_are_listed_the_last_heard_of_first(folder: JobFolder) -> None:
    seen(folder, "running", ago_s=50)
    other = JobFolder(folder.store, "evaluate-liver-1")
    other.begin("evaluate", {})
    seen(other, "done", ago_s=5)
    folder.store.put("jobs/of-old/spec.json", b"{}")  # an older version kept no record
    assert [one.job for one in jobs.all_jobs(folder.store.url)] == ["evaluate-liver-1", NAME]


def test_watching_ends_with_the_job(folder: JobFolder) -> None:
    seen(folder, "running", beat=1)
    watching = jobs.watch(folder, every_s=0.0)
    assert next(watching).state == "running"
    seen(folder, "done", beat=2)
    assert [one.state for one in watching] == ["done"]


def test_a_cancelled_job_that_nobody_runs_accounts_for_its_volumes(folder: JobFolder) -> None:
    with Ledger(folder.store, NAME) as ledger:
        ledger.record(LedgerEntry("a", "done"))
    seen(folder, "paused", ago_s=100)
    assert jobs.cancel(folder).state == "cancelled"
    outcomes = {e.volume_id: e.outcome for e in Ledger(folder.store, NAME).entries().values()}
    assert outcomes == {"a": "done", "b": "cancelled", "c": "cancelled"}


def test_a_driver_that_lives_accounts_itself(folder: JobFolder) -> None:
    seen(folder, "running")
    assert jobs.cancel(folder).state == "cancelling"
    assert jobs.pause(folder).wanted == "pause"
    assert Ledger(folder.store, NAME).entries() == {}


def test_failures_are_grouped_by_cause_the_most_frequent_first(folder: JobFolder) -> None:
    reasons = ["reading failed: truncated", "NaN voxels", "reading failed: gone"]
    with Ledger(folder.store, NAME) as ledger:
        for number, reason in enumerate(reasons):
            ledger.record(LedgerEntry(f"v{number}", "quarantined", reason))
        ledger.record(LedgerEntry("v9", "done"))
    groups = jobs.failures(folder)
    assert [(one.cause, one.count) for one in groups] == [("unreadable", 2), ("voxels", 1)]
    assert groups[0].volumes == ("v0", "v2")
    assert groups[0].reason == "reading failed: truncated"


def test_what_became_of_one_volume(folder: JobFolder) -> None:
    with Ledger(folder.store, NAME) as ledger:
        ledger.record(LedgerEntry("a", "done", node="pod-1/ab", peak_bytes=5))
    assert jobs.account(folder, "a").node == "pod-1/ab"
    with pytest.raises(NotFoundError, match="says nothing of a Volume 'z'"):
        jobs.account(folder, "z")


def test_the_spec_of_a_job_is_there_to_run_it_again(folder: JobFolder) -> None:
    spec = jobs.spec_of(folder.record())
    assert isinstance(spec, SegmentSpec)
    assert spec.labels == "liver"
