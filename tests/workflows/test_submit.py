"""Submitting: the same Spec is the same Job, noted with its Archive before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from unet_batch.errors import ClusterError, SpecError
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.storage.archive import open_archive
from unet_batch.storage.job_folder import JobFolder, Snapshot, now
from unet_batch.storage.stores import open_store
from unet_batch.workflows import submit
from unet_batch.workflows.ray_jobs import RayJob
from unet_batch.workflows.submit import exit_status, submit_here, submit_to_ray, wait_for


@dataclass
class FakeCluster:
    """A job server that takes everything, and says what it is told to say."""

    address: str = "http://head:8265"
    taken: list[dict[str, Any]] = field(default_factory=list)
    states: Iterator[RayJob] = field(default_factory=lambda: iter(()))

    def submit(self, entrypoint: str, **more: Any) -> None:
        self.taken.append({"entrypoint": entrypoint, **more})

    def jobs(self) -> list[RayJob]:
        return [
            RayJob(one["submission"], "RUNNING", metadata=one["metadata"]) for one in self.taken
        ]

    def job(self, submission: str) -> RayJob:
        return next(self.states)


@pytest.fixture
def spec(tmp_path: Path) -> EvaluateSpec:
    archive = open_archive(tmp_path / "archive", create=True)
    return EvaluateSpec(archive=archive.url, labels="net", truth="reference")


def folder_of(spec: EvaluateSpec, job: str) -> JobFolder:
    return JobFolder(open_store(spec.archive), job)


def test_a_job_is_noted_with_its_archive_and_the_spec_travels_with_it(spec: EvaluateSpec) -> None:
    cluster = FakeCluster()
    sent = submit_to_ray("evaluate", spec, cluster)  # type: ignore[arg-type]
    (taken,) = cluster.taken
    assert taken["entrypoint"].endswith("| unet-batch evaluate --spec /dev/stdin --ray auto")
    environment = taken["environment"]
    assert EvaluateSpec.model_validate_json(environment["UNET_BATCH_SPEC"]) == spec
    assert "UNET_BATCH_SPEC" in taken["entrypoint"]
    record = folder_of(spec, sent.job).record()
    assert record.submissions[-1].id == sent.submission == taken["submission"]
    assert (sent.is_new, sent.is_noted, environment["UNET_BATCH_RESUME"]) == (True, True, "")


def test_the_same_spec_again_finds_the_job_that_runs(spec: EvaluateSpec) -> None:
    cluster = FakeCluster()
    first = submit_to_ray("evaluate", spec, cluster)  # type: ignore[arg-type]
    again = submit_to_ray("evaluate", spec, cluster)  # type: ignore[arg-type]
    assert (again.is_new, again.submission) == (False, first.submission)
    assert len(cluster.taken) == 1


def test_a_job_that_runs_on_another_cluster_is_not_begun_twice(spec: EvaluateSpec) -> None:
    job = submit_to_ray("evaluate", spec, FakeCluster()).job  # type: ignore[arg-type]
    folder_of(spec, job).put_snapshot(Snapshot("running", now()))
    other = FakeCluster("http://other:8265")
    assert not submit_to_ray("evaluate", spec, other).is_new  # type: ignore[arg-type]
    assert other.taken == []
    assert submit_here("evaluate", spec)[1] is None


def test_an_archive_out_of_reach_is_left_to_the_driver(tmp_path: Path) -> None:
    spec = EvaluateSpec(archive=str(tmp_path / "elsewhere"), labels="net", truth="reference")
    cluster = FakeCluster()
    sent = submit_to_ray("evaluate", spec, cluster)  # type: ignore[arg-type]
    assert (sent.is_noted, len(cluster.taken)) == (False, 1)
    assert cluster.taken[0]["environment"]["UNET_BATCH_RESUME"] == "1"
    assert not (tmp_path / "elsewhere").exists()


def test_submitting_a_paused_job_wants_it_to_run(spec: EvaluateSpec) -> None:
    job = submit_to_ray("evaluate", spec, FakeCluster()).job  # type: ignore[arg-type]
    folder_of(spec, job).want("pause")
    submit_to_ray("evaluate", spec, FakeCluster())  # type: ignore[arg-type]
    assert folder_of(spec, job).request().wanted == "run"


def test_a_spec_too_long_to_travel_is_refused(spec: EvaluateSpec) -> None:
    long = spec.model_copy(update={"volumes": tuple(f"volume-{k:09}" for k in range(9000))})
    with pytest.raises(SpecError, match="name Volumes by patterns"):
        submit_to_ray("evaluate", long, FakeCluster())  # type: ignore[arg-type]


def test_waiting_tells_each_change_and_ends_with_the_job() -> None:
    states = [RayJob("s", "PENDING"), RayJob("s", "RUNNING"), RayJob("s", "RUNNING")]
    cluster, told = FakeCluster(states=iter([*states, RayJob("s", "SUCCEEDED")])), list[str]()
    ended = wait_for(cluster, "s", tell=told.append, sleep=lambda _: None)  # type: ignore[arg-type]
    assert told == ["s: PENDING", "s: RUNNING", "s: SUCCEEDED"]
    assert exit_status(ended) == 0


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 137, 1),
        ("FAILED", None, 1),
        ("STOPPED", 0, 1),
    ],
)
def test_the_exit_status_is_the_drivers_own(state: Any, status: int | None, expected: int) -> None:
    assert exit_status(RayJob("s", state, exit_status=status)) == expected


def test_without_a_cluster_a_process_of_this_machine_runs_it(
    spec: EvaluateSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = "import os,sys;print(sys.stdin.read(), os.environ['UNET_BATCH_SUBMISSION'], sys.argv)"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(submit, "OURSELVES", (sys.executable, "-c", echo))
    sent, process = submit_here("evaluate", spec)
    assert process is not None
    assert process.wait(timeout=30) == 0
    text = Path(sent.log).read_text()
    assert json.dumps(spec.model_dump(mode="json")) in text
    assert sent.job in text
    assert "['-c', 'evaluate', '--spec', '/dev/stdin']" in text
    assert folder_of(spec, sent.job).record().submissions[-1].log == sent.log


def test_the_entrypoint_reads_the_spec_from_the_environment(tmp_path: Path) -> None:
    program = tmp_path / "unet-batch"
    program.write_text('#!/bin/sh\necho "$@"; cat /dev/stdin; exit 2\n')
    program.chmod(0o755)
    environment = {"UNET_BATCH_SPEC": '{"a": "$HOME 100%"}', "PATH": f"{tmp_path}:{os.defpath}"}
    ran = subprocess.run(
        submit._entrypoint("export"), shell=True, env=environment, capture_output=True, check=False
    )
    assert ran.stdout.decode() == 'export --spec /dev/stdin\n{"a": "$HOME 100%"}'
    assert ran.returncode == 2


def test_a_cluster_that_refuses_says_so(spec: EvaluateSpec) -> None:
    class Refusing(FakeCluster):
        def submit(self, entrypoint: str, **more: Any) -> None:
            raise ClusterError("no room")

    with pytest.raises(ClusterError, match="no room"):
        submit_to_ray("evaluate", spec, Refusing())  # type: ignore[arg-type]
