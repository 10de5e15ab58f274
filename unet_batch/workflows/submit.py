"""submit: a Spec goes to a Ray cluster's job server, or to a process of this machine's own.

The Job is noted with its Archive first, where that can be reached from here, so that whoever
asks finds it there. The Spec travels in the environment of the driver, never on its command line.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unet_batch.errors import SpecError
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.kinds import anchored, job_id, kept_fields
from unet_batch.storage.archive import open_archive
from unet_batch.storage.job_folder import JobFolder, SubmissionRecord, note_job
from unet_batch.workflows.job_run import RESUME_VARIABLE, SUBMISSION_VARIABLE
from unet_batch.workflows.jobs import is_alive
from unet_batch.workflows.ray_jobs import RayJob, RayJobs

SPEC_VARIABLE = "UNET_BATCH_SPEC"
WITHOUT_RAY = frozenset({"export"})
"""Kinds of Job that run where they are called, and take no --ray."""

POLL_S = 2.0
OURSELVES = (sys.executable, "-c", "from unet_batch.cli.app import main; main()")
MAX_SPEC_BYTES = 100_000
"""Of an environment variable Linux takes 128 KiB."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A Job on its way.

    Attributes
    ----------
    is_new: whether it was sent now; not where it runs already.
    is_noted: whether the Archive could be reached from here, so that the Job shows there.
    log: file with the output of a process of this machine's own.
    """

    job: str
    archive: str
    submission: str
    address: str = ""
    is_new: bool = True
    is_noted: bool = True
    log: str = ""


def submit_to_ray(kind: str, spec: SpecModel, cluster: RayJobs) -> Submitted:
    """Have a Ray cluster run a Spec; where it runs the Job already, find that.

    Raises ClusterError where the cluster refuses.
    """
    spec = anchored(kind, spec)
    job, archive, text = job_id(kind, spec), _archive_of(spec), _text_of(spec)
    folder = _note(kind, spec)
    if found := _running(cluster, job, archive):
        return Submitted(job, archive, found.submission, cluster.address, is_new=False)
    if folder and is_alive(folder):
        return Submitted(job, archive, "", "", is_new=False)
    submission = f"{job}-{secrets.token_hex(3)}"
    cluster.submit(
        _entrypoint(kind),
        submission=submission,
        environment={
            SPEC_VARIABLE: text,
            SUBMISSION_VARIABLE: submission,
            RESUME_VARIABLE: "" if folder else "1",
        },
        metadata={"unet_batch_job": job, "unet_batch_archive": archive},
    )
    if folder:
        folder.submitted(SubmissionRecord(submission, cluster.address))
    return Submitted(job, archive, submission, cluster.address, is_noted=folder is not None)


def submit_here(kind: str, spec: SpecModel) -> tuple[Submitted, subprocess.Popen[bytes] | None]:
    """Run a Spec on a Ray of its own, in a process that outlives this one; and that process.

    None where the Job runs already. Raises NotFoundError where there is no Archive, unless the
    Job is to make it.
    """
    spec = anchored(kind, spec)
    job, archive, folder = job_id(kind, spec), _archive_of(spec), _note(kind, spec)
    if folder is None and kind != "ingest":
        open_archive(archive)
    if folder and is_alive(folder):
        return Submitted(job, archive, "", is_new=False), None
    log = _log_folder() / f"{job}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [*OURSELVES, kind, "--spec", "/dev/stdin"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, SUBMISSION_VARIABLE: job, RESUME_VARIABLE: "" if folder else "1"},
        )
    if process.stdin is not None:
        process.stdin.write(_text_of(spec).encode())
        process.stdin.close()
    submission = f"process {process.pid}"
    if folder:
        folder.submitted(SubmissionRecord(submission, log=str(log)))
    return Submitted(job, archive, submission, log=str(log), is_noted=folder is not None), process


def wait_for(
    cluster: RayJobs,
    submission: str,
    *,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> RayJob:
    """Wait until a submission has ended. Raises ClusterError where the cluster does not answer."""
    shown = ""
    while True:
        job = cluster.job(submission)
        if job.state != shown:
            shown = job.state
            tell(f"{submission}: {shown}")
        if job.is_over:
            return job
        sleep(POLL_S)


def exit_status(job: RayJob) -> int:
    """What the driver itself ended with: 0 done, 1 incomplete, 2 refused; 1 where it was killed."""
    if job.state == "SUCCEEDED":
        return 0
    return job.exit_status if job.exit_status in (1, 2) else 1


def _note(kind: str, spec: SpecModel) -> JobFolder | None:
    return note_job(_archive_of(spec), job_id(kind, spec), kind, kept_fields(kind, spec))


def _running(cluster: RayJobs, job: str, archive: str) -> RayJob | None:
    mine = {"unet_batch_job": job, "unet_batch_archive": archive}
    for one in cluster.jobs():
        if not one.is_over and mine.items() <= dict(one.metadata or {}).items():
            return one
    return None


def _entrypoint(kind: str) -> str:
    ray = "" if kind in WITHOUT_RAY else " --ray auto"
    return f'printf %s "${SPEC_VARIABLE}" | unet-batch {kind} --spec /dev/stdin{ray}'


def _archive_of(spec: SpecModel) -> str:
    return str(spec.model_dump(mode="json")["archive"])


def _text_of(spec: SpecModel) -> str:
    text = json.dumps(spec.model_dump(mode="json"))
    if len(text.encode()) > MAX_SPEC_BYTES:
        raise SpecError(
            f"the Spec has {len(text):,} characters, {MAX_SPEC_BYTES:,} can be sent: name Volumes"
            " by patterns, or by a condition (--where)"
        )
    return text


def _log_folder() -> Path:
    """Where the output of our own processes goes: the user's state, not the Archive."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(state).expanduser() / "unet-batch"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
