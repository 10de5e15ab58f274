"""What the chaos tests share: a small Job, its undisturbed end, and the table of what happened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.segment import segment
from unet_batch.workflows.soak_job import make_job

from . import faulty_store
from .undisturbed import ROWS, Undisturbed, copy_archive, digests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    terminalreporter.write_line("\n| fault | what happened | lost | seconds lost |")
    terminalreporter.write_line("|---|---|---|--:|")
    for fault, happened, lost, seconds in ROWS:
        terminalreporter.write_line(f"| {fault} | {happened} | {lost} | {seconds:.1f} |")


@pytest.fixture(scope="session")
def faulty_s3(s3_bucket: str) -> Iterator[object]:
    """A faulty proxy before the S3 server, known to every worker that Ray starts from now on."""
    server = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with (
        faulty_store.running(str(server.hostname), int(server.port or 0)) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", proxy.address)
        yield proxy


@pytest.fixture(scope="session")
def undisturbed(
    faulty_s3: object, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    """One run of the Job, after one that warmed Ray's workers."""
    del faulty_s3  # its address must be in the environment before Ray starts
    request.getfixturevalue("local_ray")
    folder = tmp_path_factory.mktemp("chaos")
    spec = make_job(folder, num_large=3, num_small=8)
    clean = folder / "clean"
    copy_archive(spec.archive, str(clean))
    started = time.monotonic()
    summary = segment(spec)
    seconds = time.monotonic() - started
    expected = digests(open_archive(spec.archive))
    assert len(expected) == summary.done == 11
    return Undisturbed(spec, expected, seconds, summary, clean)


@pytest.fixture
def fresh(undisturbed: Undisturbed, tmp_path: Path) -> SegmentSpec:
    """The same Job on a copy of the Archive in which nothing is segmented."""
    copy_archive(str(undisturbed.clean), str(tmp_path / "archive"))
    return undisturbed.spec.model_copy(update={"archive": str(tmp_path / "archive")})
