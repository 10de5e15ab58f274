"""Around a command: where metrics are served and for how long, and what stdout is for."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request

import pytest

from unet_batch.cli.printing import print_json
from unet_batch.cli.running import job_running, metrics_served
from unet_batch.errors import SpecError
from unet_batch.monitoring.events import JobStarted, ignore
from unet_batch.monitoring.progress import JobConsole


def console() -> JobConsole:
    return JobConsole(quiet=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read(), "utf-8")


def test_nothing_is_served_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNET_BATCH_METRICS_PORT", raising=False)
    with metrics_served(console()) as listen:
        assert listen is ignore


def test_the_environment_of_a_pod_asks_for_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("UNET_BATCH_METRICS_PORT", str(port))
    with metrics_served(console()) as listen:
        listen(JobStarted("a", "evaluate", "m", 1))
        assert 'unet_batch_job_running{dataset="",job="a",model="m"} 1.0' in scrape(port)


def test_a_command_that_says_a_port_itself_is_heard_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNET_BATCH_METRICS_PORT", "1")
    port = free_port()
    with metrics_served(console(), port=port):
        assert "unet_batch" in scrape(port)


def test_metrics_stay_for_the_last_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    port, seen = free_port(), []

    def last_scrape(seconds: float) -> None:
        seen.append((seconds, "unet_batch_job_running" in scrape(port)))

    monkeypatch.setenv("UNET_BATCH_METRICS_LINGER_S", "40")
    monkeypatch.setattr("unet_batch.cli.running.time.sleep", last_scrape)
    with metrics_served(console(), port=port) as listen:
        listen(JobStarted("a", "segment", "m", 1))
    assert seen == [(40.0, True)]


def test_a_port_that_is_no_number_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNET_BATCH_METRICS_PORT", "driver")
    with pytest.raises(SpecError, match=r"UNET_BATCH_METRICS_PORT='driver' .* expected a port"):
        metrics_served(console()).__enter__()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_what_others_print_while_a_job_runs_is_no_part_of_its_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with job_running(quiet=True):
        sys.stdout.write("(raylet) WARNING: 8 PYTHON worker processes\n")  # as Ray does
    print_json({"done": 1})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"done": 1}
    assert "worker processes" in captured.err
