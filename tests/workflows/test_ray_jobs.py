"""A real job server: submit, pause, resume, logs, and tokens that are missing or wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from unet_batch.cli.app import app
from unet_batch.errors import ClusterError, NotFoundError, SpecError
from unet_batch.formats.phantom import phantom
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.ray_jobs import RayJobs, read_token

from . import job_server


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with job_server.job_server() as address:
        yield address


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(f"{job_server.TOKEN}\n")
    return path


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    archive = open_archive(tmp_path / "archive", create=True)
    scan, _ = phantom(1, name="p1", shape_zyx=(8, 8, 8))
    archive.write_scan(scan, source={})
    path = tmp_path / "export.yaml"
    fields = {"archive": archive.url, "image": True, "out": str(tmp_path / "out")}
    path.write_text(yaml.safe_dump(fields))
    return path


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


@pytest.mark.ray
@pytest.mark.slow  # a driver beside another Ray of the machine is given that one's address
def test_a_job_is_submitted_paused_and_resumed(
    address: str, token_file: Path, spec: Path, tmp_path: Path
) -> None:
    server = ("--address", address, "--token-file", token_file)
    sent = json.loads(run("submit", spec, *server, "--json"))
    job = f"{sent['archive']}/jobs/{sent['job']}"
    run("pause", job)  # before its driver has begun: that obeys
    paused = "asked to pause it"
    assert paused in "".join(RayJobs(address, token=job_server.TOKEN).follow(sent["submission"]))
    assert not (tmp_path / "out").exists()

    run("resume", job, *server, "--wait")
    assert (tmp_path / "out" / "p1.nii.gz").exists()
    status = json.loads(run("status", job, "--json"))
    assert (status["state"], status["progress"]["outcomes"]) == ("done", {"done": 1})
    assert status["submission"]["address"] == address
    assert "p1" in run("status", job, "--volume", "p1")
    assert "written" in run("logs", job, "--token-file", token_file)
    (listed,) = json.loads(run("jobs", "--archive", sent["archive"], "--json"))
    assert (listed["job"], listed["kind"]) == (sent["job"], "export")


@pytest.mark.ray
def test_tokens_and_submissions_that_the_server_does_not_know(address: str) -> None:
    with pytest.raises(ClusterError, match=r"refuses the token .* RAY_AUTH_TOKEN"):
        RayJobs(address, token="f" * 32)
    with pytest.raises(ClusterError, match=r"asks for a token: set RAY_AUTH_TOKEN|refuses the"):
        RayJobs(address)
    server = RayJobs(address, token=job_server.TOKEN)
    with pytest.raises(NotFoundError, match="knows no submission 'never'"):
        server.job("never")


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")  # another: it must not be taken
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1 does not do what was asked"):
        RayJobs("http://127.0.0.1:1")
    with pytest.raises(SpecError, match="expected that of the head, http://head:8265"):
        RayJobs("head")


def test_the_token_is_that_of_a_file_or_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_token() is None
    (tmp_path / "token").write_text("of-the-file\n")
    assert read_token(tmp_path / "token") == "of-the-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert read_token() == "of-the-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-environment")
    assert read_token() == "of-the-environment"
    (tmp_path / "empty").write_text("\n")
    for name, message in (("none", "cannot be read"), ("empty", "is empty")):
        with pytest.raises(SpecError, match=message):
            read_token(tmp_path / name)


def described(**answers: Any) -> str:
    server = object.__new__(RayJobs)
    server.address = "http://head:8265"
    return str(server._translated(answers["text"], answers.get("submission", "")))


def test_a_missing_token_is_told_with_what_to_do() -> None:
    text = described(text="Request failed with status code 401: Unauthorized")
    assert "set RAY_AUTH_TOKEN in the environment, or name a file" in text
