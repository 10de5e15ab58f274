"""RayJobs: the job server of one Ray cluster, through Ray's own client.

The client takes its address from RAY_ADDRESS though another was given, and sends a token only
where RAY_AUTH_MODE was set before Ray was imported (ray 2.60). Here the address is the one that
was asked for, and a token that is known is sent.
"""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import requests
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from unet_batch.errors import ClusterError, NotFoundError, SpecError
from unet_batch.inference.cluster import variables

TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # noqa: S105 - where it is, not what it is
TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"

YOUNG_CLUSTER_S = 30.0  # until a cluster that has just begun takes its first job

ERRORS = (
    RayError,  # also where it refuses a token
    RuntimeError,
    ValueError,
    OSError,
    requests.RequestException,
    aiohttp.ClientError,
)
"""What Ray's client raises where the server refuses, or is not there."""

RayState = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


@dataclass(frozen=True, slots=True)
class RayJob:
    """What a cluster says of one submission; `exit_status` is the driver's, once it has ended."""

    submission: str
    state: RayState
    message: str = ""
    exit_status: int | None = None
    metadata: Mapping[str, str] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, however."""
        return self.state not in ("PENDING", "RUNNING")


def read_token(file: Path | None = None) -> str | None:
    """The cluster's token: of `file`, else of the environment, else where Ray itself keeps it.

    Raises SpecError where a file that is named cannot be read, or is empty.
    """
    if file is None and (token := os.environ.get(TOKEN_VARIABLE, "").strip()):
        return token
    named = file or _path_of_environment()
    path = named or Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if named is None:
            return None
        raise SpecError(f"the file of the token, {path}, cannot be read: {error}") from error
    if not token and named is not None:
        raise SpecError(f"the file of the token, {path}, is empty")
    return token or None


class RayJobs:
    """The job server at `address`, such as http://head:8265.

    Raises ClusterError, with what to do, where it does not answer or refuses the token.
    """

    def __init__(self, address: str, *, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        if "://" not in self.address:
            raise SpecError(f"--address {address!r}: expected that of the head, http://head:8265")
        headers = {"Authorization": f"Bearer {token}"} if token else None
        self._has_token = token is not None
        # No other address of the environment may overrule this one.
        with self._errors(), variables({ADDRESS_VARIABLE: self.address}):
            self._client = JobSubmissionClient(self.address, headers=headers)

    def submit(
        self,
        entrypoint: str,
        *,
        submission: str,
        environment: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        """Have the cluster run `entrypoint`; one that has just begun is given a little time."""
        last_try = time.monotonic() + YOUNG_CLUSTER_S
        while True:
            try:
                with self._errors():
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=submission,
                        runtime_env={"env_vars": dict(environment)},
                        metadata=dict(metadata),
                    )
            except ClusterError as error:
                if "No available agent" not in str(error) or time.monotonic() > last_try:
                    raise
                time.sleep(1)
            else:
                return

    def job(self, submission: str) -> RayJob:
        """What became of a submission. Raises NotFoundError where the cluster knows none."""
        with self._errors(submission):
            return _job(self._client.get_job_info(submission))

    def jobs(self) -> list[RayJob]:
        """All submissions that the cluster remembers."""
        with self._errors():
            return [_job(one) for one in self._client.list_jobs() if one.submission_id]

    def log(self, submission: str) -> str:
        """What the driver of a submission has said so far."""
        with self._errors(submission):
            return str(self._client.get_job_logs(submission))

    def follow(self, submission: str) -> Iterator[str]:
        """What the driver says, as it says it, until it ends."""
        lines = self._client.tail_job_logs(submission)
        with self._errors(submission), asyncio.Runner() as runner:
            while (text := runner.run(_next(lines))) is not None:
                yield text

    def stop(self, submission: str) -> None:
        """End the driver of a submission, whatever it is at."""
        with self._errors(submission):
            self._client.stop_job(submission)

    @contextmanager
    def _errors(self, submission: str = "") -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            raise self._translated(str(error), submission) from error

    def _translated(self, text: str, submission: str) -> ClusterError | NotFoundError:
        where = f"the Ray cluster at {self.address}"
        if "Authentication required" in text or "status code 401" in text:
            return ClusterError(
                f"{where} asks for a token: set {TOKEN_VARIABLE} in the environment, or name a"
                " file that holds it with --token-file (on its head: `ray get-auth-token`)"
            )
        if "Authentication failed" in text or "status code 403" in text:
            return ClusterError(
                f"{where} refuses the token that was sent: it is another cluster's, or an old"
                f" one. Compare {TOKEN_VARIABLE}, or the file of --token-file, with"
                " `ray get-auth-token` on its head"
            )
        if submission and "status code 404" in text:
            return NotFoundError(
                f"{where} knows no submission {submission!r}: a head that was started anew"
                " forgets; what became of the Job stands with its Archive"
            )
        return ClusterError(f"{where} does not do what was asked: {text.strip()[:500]}")


async def _next(lines: AsyncIterator[str]) -> str | None:
    with warnings.catch_warnings():  # ray 2.60 calls aiohttp in a way that is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        return await anext(lines, None)


def _path_of_environment() -> Path | None:
    text = os.environ.get(TOKEN_PATH_VARIABLE, "")
    return Path(text) if text else None


def _job(details: Any) -> RayJob:
    return RayJob(
        submission=details.submission_id,
        state=JobStatus(details.status).value,
        message=details.message or "",
        exit_status=details.driver_exit_code,
        metadata=details.metadata or {},
    )
