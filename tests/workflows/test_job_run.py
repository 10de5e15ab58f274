"""One run of a Job: known to all who reach its Archive, and stopped by what stands there."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from unet_batch.errors import ConflictError, JobStoppedError, ScanError, SpecError
from unet_batch.monitoring.events import (
    Event,
    JobFinished,
    JobStarted,
    VolumeFinished,
    Warned,
)
from unet_batch.planning.control import Control
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.storage.archive import open_archive
from unet_batch.storage.job_folder import JobFolder, list_jobs
from unet_batch.storage.ledger import Ledger
from unet_batch.storage.stores import open_store
from unet_batch.workflows.job_run import JobRun, Rhythm
from unet_batch.workflows.jobs import spec_of, view

SWIFT = Rhythm(look_s=0.02, tell_s=0.04, span_s=0.4)
STARTED = JobStarted("evaluate-1", "evaluate", "net", num_volumes=3)


@pytest.fixture
def spec(tmp_path: Path) -> EvaluateSpec:
    archive = open_archive(tmp_path / "archive", create=True)
    return EvaluateSpec(archive=archive.url, labels="net", truth="reference")


def run_of(spec: EvaluateSpec, **more: object) -> JobRun:
    return JobRun("evaluate", spec, rhythm=SWIFT, **more)  # type: ignore[arg-type]


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not come about in 5 s")


def test_another_machine_sees_the_job_while_it_runs_and_how_it_ended(spec: EvaluateSpec) -> None:
    run = run_of(spec)
    with run:
        run(STARTED)
        run(VolumeFinished("a", "done"))
        elsewhere = JobFolder(open_store(spec.archive), run.folder.id)
        until(lambda: view(elsewhere).progress.num_done == 1)
        seen = view(elsewhere)
        assert (seen.state, seen.progress.volumes_left, seen.kind) == ("running", 2, "evaluate")
        run(VolumeFinished("b", "done"))
        run(VolumeFinished("c", "skipped"))
    assert view(elsewhere).state == "done"
    assert "done: evaluate: 3 of 3 volumes" in elsewhere.log()


def test_each_volume_is_accounted_for_and_failures_end_incomplete(spec: EvaluateSpec) -> None:
    run = run_of(spec)
    with run:
        run(STARTED)
        run(VolumeFinished("a", "quarantined", "reading failed: truncated"))
        run(Warned("mind the gap"))
    assert view(run.folder).state == "incomplete"
    entry = Ledger(run.folder.store, run.folder.id).entries()["a"]
    assert (entry.outcome, entry.reason) == ("quarantined", "reading failed: truncated")
    assert "quarantined: a: reading failed" in run.folder.log()
    assert "warning: mind the gap" in run.folder.log()


def test_of_two_drivers_one_wins_and_the_other_says_who(spec: EvaluateSpec) -> None:
    with run_of(spec), pytest.raises(ConflictError, match="held by another run"), run_of(spec):
        pytest.fail("two drivers of one Job")
    with run_of(spec):
        pass  # it is free again


def test_the_lease_of_a_driver_that_died_here_is_not_waited_for(spec: EvaluateSpec) -> None:
    slow = Rhythm(look_s=0.02, tell_s=0.04, span_s=1000.0)
    run = JobRun("evaluate", spec, rhythm=slow)
    with run:
        content = run.folder.store.get(run.folder.lease_path)
        last = run.folder.snapshot()
    assert last is not None
    run.folder.store.put(run.folder.lease_path, content)
    run.folder.put_snapshot(replace(last, state="running", pid=2**22 + 1))
    with JobRun("evaluate", spec, rhythm=slow):
        pass


def test_an_error_is_the_jobs_reason(spec: EvaluateSpec) -> None:
    def fail() -> None:
        with run_of(spec) as run:
            run(STARTED)
            raise ScanError("no masks at all")

    with pytest.raises(ScanError):
        fail()
    seen = view(run_of(spec).folder)
    assert (seen.state, seen.reason) == ("failed", "no masks at all")


def test_an_interrupt_that_a_library_made_an_exit_of_is_one(spec: EvaluateSpec) -> None:
    def work() -> None:
        with run_of(spec) as run:
            run(STARTED)
            run.folder.want("pause")
            try:
                time.sleep(20)
            except KeyboardInterrupt:
                raise SystemExit(1) from None  # as Ray Train does

    with pytest.raises(JobStoppedError, match="paused, as was asked for"):
        work()


@pytest.fixture(params=[signal.SIG_IGN, signal.default_int_handler])
def disposition(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGINT as a program finds it: in the background of a script it is ignored."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    assert signal.signal(signal.SIGINT, before) == request.param


@pytest.mark.usefixtures("disposition")
@pytest.mark.parametrize(("wanted", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_workflow_that_asks_no_control_is_interrupted(
    spec: EvaluateSpec, wanted: str, state: str
) -> None:
    def work() -> None:
        with run_of(spec) as run:
            run(STARTED)
            run.folder.want(wanted)  # type: ignore[arg-type]
            time.sleep(20)
            pytest.fail("it was not interrupted")

    with pytest.raises(JobStoppedError, match=f"{state}, as was asked for"):
        work()
    assert view(run_of(spec).folder).state == state


def test_a_workflow_that_asks_its_control_is_left_to_end_itself(spec: EvaluateSpec) -> None:
    control = Control()
    with run_of(spec, control=control) as run:
        run(STARTED)
        run(VolumeFinished("a", "done"))
        run.folder.want("pause")
        until(lambda: control.wanted == "pause")
    assert view(run.folder).state == "paused"


def test_whoever_runs_it_again_wants_it_to_run_and_a_machine_does_not(spec: EvaluateSpec) -> None:
    with run_of(spec) as run:
        run(STARTED)
    run.folder.want("pause")
    with pytest.raises(JobStoppedError, match="unet-batch resume"), run_of(spec, is_resumed=False):
        pytest.fail("it was paused")
    with run_of(spec):
        assert run.folder.request().wanted == "run"


def test_who_lost_the_lease_begins_no_more(spec: EvaluateSpec) -> None:
    control = Control()
    with run_of(spec, control=control) as run:
        run(STARTED)
        run.folder.store.put(
            run.folder.lease_path,
            b'{"owner": "another", "count": 9, "span_s": 0.4, "note": "someone"}',
        )
        until(lambda: control.wanted == "pause")


def test_events_carry_the_jobs_own_id(spec: EvaluateSpec) -> None:
    run = run_of(spec)
    renamed = [run.renamed(one) for one in (STARTED, JobFinished("evaluate-1", 1.0))]
    assert {one.job for one in renamed} == {run.folder.id}  # type: ignore[union-attr]
    other: Event = Warned("x")
    assert run.renamed(other) is other


def test_an_archive_that_is_still_to_be_made_is_not_begun_by_a_mistake(tmp_path: Path) -> None:
    spec = IngestSpec(archive=str(tmp_path / "new"), sources=("nothing/",))
    with JobRun("ingest", spec, rhythm=SWIFT) as run:
        assert not (tmp_path / "new").exists()
        open_archive(tmp_path / "new", create=True)
        run(JobStarted("ingest", "ingest", "", num_volumes=0))
    assert list_jobs(open_store(tmp_path / "new")) == [run.folder.id]
    assert view(run.folder).state == "done"


def test_where_scans_lay_is_not_kept_with_the_data(tmp_path: Path) -> None:
    open_archive(tmp_path / "new", create=True)
    spec = IngestSpec(
        archive=str(tmp_path / "new"),
        sources=("/scans/DOE^JANE",),
        truth={"gtv": "/masks/DOE^JANE/{stem}"},
    )
    with JobRun("ingest", spec, rhythm=SWIFT) as run:
        pass
    everything = [p.read_bytes() for p in (tmp_path / "new").rglob("*") if p.is_file()]
    assert everything
    assert not any(b"DOE" in content for content in everything)
    with pytest.raises(SpecError, match="run the same `unet-batch ingest` again"):
        spec_of(run.folder.record())
    with JobRun("ingest", spec.model_copy(update={"keep_identifiers": True})) as run:
        pass
    assert spec_of(run.folder.record()).model_dump()["sources"] == ("/scans/DOE^JANE",)


def test_a_job_that_only_reads_runs_where_nothing_may_be_written(
    spec: EvaluateSpec, tmp_path: Path
) -> None:
    (tmp_path / "archive" / "jobs").write_text("no folder")
    told: list[str] = []
    export = ExportSpec(archive=spec.archive, out=str(tmp_path / "out"), labels="net")
    with JobRun("export", export, rhythm=SWIFT, tell=told.append) as run:
        run(replace(STARTED, kind="export"))
        run(VolumeFinished("a", "done"))
    assert "not kept with its Archive" in told[0]


def test_a_store_out_of_reach_for_a_while_stops_nothing(spec: EvaluateSpec, tmp_path: Path) -> None:
    with run_of(spec) as run:
        run(STARTED)
        snapshot = tmp_path / "archive" / run.folder.path / "snapshot.json"
        snapshot.unlink()
        snapshot.mkdir()
        time.sleep(0.2)
        snapshot.rmdir()
        until(lambda: run.folder.snapshot() is not None)
        assert threading.active_count() > 1
