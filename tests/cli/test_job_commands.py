"""Commands on Jobs, as a person on another machine types them; nothing runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from unet_batch.cli.app import app
from unet_batch.errors import SpecError
from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    QueueChanged,
    StageTimed,
    VolumeFinished,
)
from unet_batch.monitoring.snapshot import progress_to_json
from unet_batch.monitoring.tally import Tally
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import open_archive
from unet_batch.storage.job_folder import JobFolder, Snapshot, SubmissionRecord, now
from unet_batch.storage.ledger import Ledger, LedgerEntry
from unet_batch.storage.stores import open_store

NAME = "segment-liver-12345678"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFolder:
    """A Job that runs somewhere, and the Archive of which the environment names."""
    url = open_archive(tmp_path / "archive", create=True).url
    monkeypatch.setenv("UNET_BATCH_ARCHIVE", url)
    folder = JobFolder(open_store(url), NAME)
    spec = SegmentSpec(archive=url, model="/models/liver", labels="liver")
    folder.begin("segment", spec.model_dump(mode="json"))
    folder.put_snapshot(snapshot("running"))
    return folder


def snapshot(state: str) -> Snapshot:
    tally = Tally()
    tally(JobStarted(NAME, "segment", "liver", num_volumes=4))
    tally(VolumeFinished("a", "done", num_voxels=5))
    tally(VolumeFinished("b", "quarantined", "reading failed: truncated"))
    tally(StageTimed("predict", 5.0))
    tally(QueueChanged({"predict": 2}, replicas_busy=2, replicas_idle=1))
    if state != "running":
        tally(JobFinished(NAME, 1.0))
    progress = progress_to_json(tally.progress())
    return Snapshot(state, now(), 1, host="pod-7:abc", progress=progress)


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


@pytest.mark.usefixtures("folder")
def test_the_status_of_a_job_is_what_its_own_terminal_shows() -> None:
    text = run("status", "segment-liver")
    assert f"{NAME}  running" in text
    assert "pod-7" in text
    assert "1 of 4 volumes, 1 quarantined, 2 left" in text
    assert "2 busy, 1 idle" in text
    assert "b: reading failed: truncated" in text
    told = run_json("status", "segment-liver")
    assert (told["state"], told["progress"]["volumes_left"]) == ("running", 2)


@pytest.mark.usefixtures("folder")
def test_jobs_are_listed_with_what_is_left() -> None:
    text = run("jobs")
    assert "1 Jobs of" in text
    assert NAME in text
    assert run_json("jobs")[0]["kind"] == "segment"


def test_what_is_asked_of_a_job_stands_with_its_data(folder: JobFolder) -> None:
    assert "pausing" in run("pause", NAME)
    assert folder.request().wanted == "pause"
    assert f"asked to pause by {folder.request().by}" in run("status", NAME)
    assert run_json("cancel", NAME)["state"] == "cancelling"


@pytest.mark.parametrize(("state", "status"), [("done", 0), ("incomplete", 1), ("paused", 1)])
def test_watching_ends_with_the_jobs_status(folder: JobFolder, state: str, status: int) -> None:
    folder.put_snapshot(snapshot(state))
    assert state in run("status", NAME, "--watch", status=status)
    (line,) = run("status", NAME, "--watch", "--json", status=status).splitlines()
    assert json.loads(line)["state"] == state


def test_failures_are_shown_by_cause_and_one_volume_with_all_that_is_known(
    folder: JobFolder,
) -> None:
    with Ledger(folder.store, NAME) as ledger:
        ledger.record(LedgerEntry("b", "quarantined", "reading failed: truncated", node="pod-7"))
        ledger.record(LedgerEntry("c", "quarantined", "reading failed: gone"))
    text = run("status", NAME, "--failed")
    assert "2 quarantined Volumes by cause" in text
    assert "unreadable" in text
    assert run_json("status", NAME, "--failed")[0]["count"] == 2
    assert "node" in run("status", NAME, "--volume", "b")
    assert run_json("status", NAME, "--volume", "b")["node"] == "pod-7"


def test_the_last_lines_of_a_job_whose_cluster_is_gone_are_there(folder: JobFolder) -> None:
    folder.put_log("begun\nquarantined: b\n")
    assert run("logs", NAME) == "begun\nquarantined: b\n"
    folder.put_snapshot(snapshot("done"))
    assert run("logs", NAME, "-f") == "begun\nquarantined: b\n"


def test_the_output_of_a_process_of_this_machine_is_shown_whole(
    folder: JobFolder, tmp_path: Path
) -> None:
    (tmp_path / "job.log").write_text("unet-batch: no Bundle there\n")
    folder.submitted(SubmissionRecord("process 7", log=str(tmp_path / "job.log")))
    assert run("logs", NAME) == "unet-batch: no Bundle there\n"


def test_an_archive_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNET_BATCH_ARCHIVE", raising=False)
    for command in (["jobs"], ["status", NAME]):
        with pytest.raises(SpecError, match="of which Archive"):
            CliRunner().invoke(app, command, catch_exceptions=False)


def test_a_job_goes_to_one_place(tmp_path: Path) -> None:
    arguments = ["submit", str(tmp_path / "s.yaml"), "--kubernetes", "--address", "http://h:1"]
    with pytest.raises(SpecError, match="a Job goes to one of them"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
