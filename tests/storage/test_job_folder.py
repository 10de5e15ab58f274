"""What is kept of a Job with the data, in a folder and in a bucket."""

from __future__ import annotations

import threading

import pytest

from unet_batch.errors import NotFoundError, SpecError, StoreError
from unet_batch.storage.job_folder import (
    KEPT_SUBMISSIONS,
    MAX_LOG_BYTES,
    JobFolder,
    Snapshot,
    SubmissionRecord,
    find_job,
    list_jobs,
)
from unet_batch.storage.object_store import ObjectStore

pytestmark = pytest.mark.parametrize("store", ["folder", "s3"], indirect=True)

SPEC = {"archive": "/data/ct", "labels": "liver"}


@pytest.fixture
def folder(store: ObjectStore) -> JobFolder:
    folder = JobFolder(store, "segment-liver-1")
    folder.begin("segment", SPEC)
    return folder


def test_another_machine_finds_what_a_job_is(folder: JobFolder, store: ObjectStore) -> None:
    record = JobFolder(store, "segment-liver-1").record()
    assert (record.kind, record.spec) == ("segment", SPEC)
    assert record.created_at
    assert list_jobs(store) == ["segment-liver-1"]


def test_a_later_run_may_have_other_means(folder: JobFolder) -> None:
    created = folder.record().created_at
    folder.begin("segment", {**SPEC, "resources": {"replicas": 4}})
    assert folder.record().spec["resources"] == {"replicas": 4}
    assert folder.record().created_at == created


def test_the_last_submissions_are_kept(folder: JobFolder) -> None:
    for number in range(KEPT_SUBMISSIONS + 2):
        folder.submitted(SubmissionRecord(f"s{number}", "http://head:8265"))
    kept = folder.record().submissions
    assert [kept[0].id, kept[-1].id] == ["s2", f"s{KEPT_SUBMISSIONS + 1}"]
    assert kept[-1].at


def test_nothing_wanted_means_run_and_the_last_request_counts(folder: JobFolder) -> None:
    assert folder.request().wanted == "run"
    first = folder.want("pause")
    assert folder.want("pause") == first
    assert "@" not in first.at
    assert first.by
    folder.want("cancel")
    assert folder.request().wanted == "cancel"


def test_requests_made_at_once_all_end_in_one_that_was_made(folder: JobFolder) -> None:
    threads = [
        threading.Thread(target=folder.want, args=(one,)) for one in ("pause", "cancel", "run") * 3
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert folder.request().wanted in ("pause", "cancel", "run")


def test_the_latest_snapshot_and_the_end_of_the_log_are_kept(folder: JobFolder) -> None:
    assert folder.snapshot() is None
    assert folder.log() == ""
    for beat in (1, 2):
        folder.put_snapshot(Snapshot("running", "2026-01-01", beat, progress={"num_volumes": 3}))
    found = folder.snapshot()
    assert found is not None
    assert (found.beat, found.progress) == (2, {"num_volumes": 3})
    folder.put_log("x" * MAX_LOG_BYTES + "the end")
    assert folder.log().endswith("the end")
    assert len(folder.log()) == MAX_LOG_BYTES


def test_a_job_is_found_by_the_beginning_of_its_id(folder: JobFolder, store: ObjectStore) -> None:
    JobFolder(store, "segment-spleen-2").begin("segment", SPEC)
    assert find_job(store, "segment-l").id == "segment-liver-1"
    with pytest.raises(SpecError, match="may be segment-liver-1, segment-spleen-2"):
        find_job(store, "segment")
    with pytest.raises(NotFoundError, match=r"no Job 'train' .*`unet-batch jobs"):
        find_job(store, "train")


def test_a_job_that_never_began_takes_no_submission(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError, match="no Job 'none'"):
        JobFolder(store, "none").submitted(SubmissionRecord("s"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("job.json", b'{"surprise": 1}', "job.json: not written by this version"),
        ("request.json", b'{"wanted": "dance"}', "wanted 'dance', expected run, pause, cancel"),
        ("request.json", b"{", "request.json is damaged"),
    ],
)
def test_a_damaged_record_is_named(
    folder: JobFolder, store: ObjectStore, name: str, content: bytes, message: str
) -> None:
    store.put(f"{folder.path}/{name}", content)
    with pytest.raises(StoreError, match=message):
        folder.record() if name == "job.json" else folder.request()
