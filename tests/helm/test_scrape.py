"""A real Prometheus scrapes a real job on a real Ray: every panel and rule finds its data.

What this machine has not (GPUs, last week, a nightly retraining) comes to Prometheus as it
would there: by our own exporter, and for GPUs under the names in Ray's own source.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import yaml
from dashboards.draw import Prometheus, draw_all
from dashboards.queries import PanelQuery, load, panel_queries
from prometheus_client.openmetrics.exposition import generate_latest
from promql_parser import parse
from ray.dashboard.modules.reporter import reporter_agent

from unet_batch.formats.scan import Mask, Scan
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.monitoring.events import (
    Challenged,
    JobFinished,
    JobStarted,
    RayJobFinished,
    ReplicaLost,
    RetrainFinished,
    Scored,
    TrainStep,
    Validated,
)
from unet_batch.monitoring.metrics import JobMetrics, serve
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.report import report
from unet_batch.workflows.segment import segment

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
CLASSES = (LabelClass(0, "background"), LabelClass(1, "organ"))
INTERVAL, PATIENCE_S = "30s", 90.0


# ---- what is scraped --------------------------------------------------------------------------


def make_archive(folder: Path) -> Archive:
    """Scans with a truth, and one that cannot be segmented."""
    archive = open_archive(folder / "ct-archive", create=True)
    random = np.random.default_rng(0)
    for number in range(6):
        voxels = random.integers(-1000, 1000, (1, 40, 40, 40)).astype(np.int16)
        archive.write_scan(Scan(f"v{number}", voxels, np.eye(4), ("CT",), "CT"), source={})
        truth = random.integers(0, 2, (40, 40, 40)).astype(np.uint8)
        archive[f"v{number}"].write_labels(
            "reference", Mask(truth, np.eye(4), CLASSES), provenance={}
        )
    broken = random.standard_normal((1, 20, 20, 20)).astype(np.float32)
    broken[0, :5] = np.nan
    archive.write_scan(Scan("nan", broken, np.eye(4), ("CT",)), source={})
    return archive


def make_bundle(folder: Path) -> Path:
    torch.manual_seed(0)
    config = BundleConfig(
        name="organ",
        network_name="residual_unet",
        network_arguments={"channels": [4, 8], "num_res_units": 1},
        channels=("CT",),
        roi=(16, 16, 16),
        classes=CLASSES,
        spacing_mm=(1, 1, 1),
        scores={"mean_dice": 0.9, "dice.organ": 0.9},
    )
    save_bundle(folder, config, config.build_network().state_dict())
    return folder


def segment_for_real(folder: Path, metrics: JobMetrics) -> None:
    """The job: segment with live scores, then look at the masks without a truth."""
    archive, bundle = make_archive(folder), make_bundle(folder / "organ")
    fields = {
        "archive": archive.url,
        "model": str(bundle),
        "labels": "net",
        "truth": "reference",
        "inference": {"precision": "fp32", "engine": "torch"},
        "resources": {"cpus_per_replica": 1},
        "allow_quarantined": 1,
    }
    segment(SegmentSpec.model_validate(fields), listen=slowly(metrics))
    labels = {"archive": archive.url, "labels": "net", "out": str(folder / "report")}
    report(ReportSpec.model_validate(labels), listen=metrics)


def slowly(metrics: JobMetrics) -> Any:
    """A Listener that lets Prometheus look in between: a job of minutes, in seconds."""

    def tell(event: Any) -> None:
        metrics(event)
        time.sleep(0.02)

    return tell


def retrain_in_events(metrics: JobMetrics) -> None:
    """A nightly retraining as its workflow will tell it, through the real exporter."""
    metrics(JobStarted("organ", "retrain", "organ", 24, dataset="ct-archive"))
    for step in range(10, 101, 10):
        metrics(TrainStep(step, 100, 2.0 / step, 1e-3 * step / 100, 0.2, 0.01))
        metrics(Validated(step, 0.9 - 1.0 / step))
        time.sleep(0.3)
    metrics(Challenged(champion={"organ": 0.88}, challenger={"organ": 0.9}))
    metrics(RetrainFinished("promoted"))
    metrics(RayJobFinished("retrain", "succeeded"))
    metrics(ReplicaLost("out of memory"))
    metrics(JobFinished("organ", 3.0))


def last_week(folder: Path) -> Path:
    """Live Dice of the week before, in OpenMetrics with timestamps, for Drift."""
    metrics = JobMetrics()
    metrics(JobStarted("organ-old", "segment", "organ", 9, dataset="ct-archive"))
    lines = []
    for hours_ago in range(160, 2, -4):
        metrics(Scored("v", "organ", 0.9))
        text = generate_latest(metrics.registry).decode()
        stamp = time.time() - hours_ago * 3600
        lines += [f"{one} {stamp}" for one in text.splitlines() if "dice_mean{" in one]
    path = folder / "week.om"
    header = "# HELP unet_batch_dice_mean d\n# TYPE unet_batch_dice_mean gauge\n"
    path.write_text(header + "\n".join(lines) + "\n# EOF\n")
    return path


def gpu_text() -> str:
    """Two GPUs, under the names and labels of Ray's own reporter."""
    gauges = reporter_agent.METRICS_GAUGES
    lines = []
    for key, value in (
        ("node_gpus_available", 1),
        ("node_gpus_utilization", 93),
        ("node_gram_used", 30_000),
        ("node_gram_available", 50_000),
    ):
        assert {"GpuIndex", "GpuDeviceName"} <= set(gauges[key].view.columns), key
        for gpu in "01":
            labels = f'ip="10.0.0.1",GpuIndex="{gpu}",GpuDeviceName="H200"'
            lines.append(f"ray_{gauges[key].view.name}{{{labels}}} {value}")
    return "\n".join(lines) + "\n"


@contextmanager
def text_served(text: str) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


# ---- Prometheus -------------------------------------------------------------------------------


class Scraped:
    """A running Prometheus and what it answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def ask(self, query: PanelQuery) -> list[Any]:
        """The answer where all is chosen in the dashboard's variables, as Grafana fills them in."""
        chosen = Prometheus(self.url, 0, 0).choices(load()[query.dashboard])
        expr = query.filled(interval=INTERVAL, **chosen)
        answer: list[Any] = self.get("query", query=expr)["result"]
        return answer

    def sees(self, num_targets: int) -> bool:
        """Whether it runs and has scraped so many targets."""
        try:
            return len(self.get("query", query="up == 1")["result"]) == num_targets
        except OSError:
            return False

    def names(self) -> set[str]:
        return set(self.get("label/__name__/values"))


def config_for(ray_port: int, exporters: list[int], gpu_port: int) -> dict[str, Any]:
    """The Prometheus configuration of cluster/, pointed at this machine."""
    path = ROOT / "cluster" / "prometheus" / "prometheus.yml"
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "helm" / "unet-batch" / "rules" / "*.yaml")]
    (scrape,) = config["scrape_configs"]
    del scrape["dns_sd_configs"]
    metrics, driver = scrape["static_configs"]
    metrics["targets"] = [f"127.0.0.1:{ray_port}", f"127.0.0.1:{gpu_port}"]
    driver["targets"] = [f"127.0.0.1:{port}" for port in exporters]
    return config


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def prometheus_running(folder: Path, config: dict[str, Any]) -> Iterator[Scraped]:
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    week = last_week(folder)
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", week, folder / "tsdb"],
        check=True,
        capture_output=True,
    )
    url = f"127.0.0.1:{free_port()}"
    log = (folder / "prometheus.log").open("w")
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={url}",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        yield Scraped(f"http://{url}")
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


@pytest.fixture(scope="module")
def scraped(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A Prometheus that has seen a job, a retraining, Ray, GPUs and last week."""
    if not shutil.which("prometheus"):
        pytest.skip("Prometheus is not here: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("scrape")
    ray_port = int(ray.nodes()[0]["MetricsExportPort"])
    job, nightly = JobMetrics(), JobMetrics()
    with ExitStack() as stack:
        ports = [stack.enter_context(serve(one, port=0)) for one in (job, nightly)]
        gpus = stack.enter_context(text_served(gpu_text()))
        config = config_for(ray_port, ports, gpus)
        found = stack.enter_context(prometheus_running(folder, config))
        wait_until(lambda: found.sees(4))
        events = threading.Thread(target=retrain_in_events, args=(nightly,))
        events.start()
        segment_for_real(folder, job)
        events.join()
        wait_for_data(found)
        yield found


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < end:
        time.sleep(0.5)


def wait_for_data(found: Scraped) -> None:
    """Until every panel has data; Ray's own agent tells the first after ten seconds."""
    missing = list(panel_queries())

    def is_complete() -> bool:
        missing[:] = [query for query in missing if not found.ask(query)]
        return not missing

    wait_until(is_complete)


# ---- the tests --------------------------------------------------------------------------------


def selectors(node: Any) -> set[str]:
    """The metrics that a parsed expression asks for."""
    found = {node.name} if type(node).__name__ == "VectorSelector" and node.name else set()
    children = [
        getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vs", "vector_selector")
    ]
    children += list(getattr(node, "args", None) or [])
    return found.union(*(selectors(child) for child in children if child is not None))


@pytest.mark.parametrize("query", list(panel_queries()), ids=lambda q: f"{q.dashboard}, {q.panel}")
def test_a_panel_names_metrics_that_exist_and_returns_data(
    scraped: Scraped, query: PanelQuery
) -> None:
    names = selectors(parse(query.filled()))
    assert names
    assert names <= scraped.names()
    assert scraped.ask(query)


def test_the_job_is_found_as_it_was(scraped: Scraped) -> None:
    def value(expr: str) -> float:
        (one,) = scraped.get("query", query=expr)["result"]
        return float(one["value"][1])

    labels = 'model="organ",dataset="ct-archive",job=~"segment-.*"'
    assert value(f'unet_batch_volumes_total{{{labels},outcome="done"}}') == 6
    assert value(f'unet_batch_volumes_quarantined_total{{{labels},cause="voxels"}}') == 1
    assert value(f'unet_batch_dice_count{{{labels},class="organ"}}') == 6
    assert value(f'unet_batch_model_dice{{{labels},class="organ"}}') == 0.9
    tiles = f"unet_batch_tiles_predicted_total{{{labels}}} == unet_batch_tiles_planned"
    assert value(tiles) > 0


def test_a_dashboard_offers_the_jobs_of_its_kinds(scraped: Scraped) -> None:
    def offered(title: str) -> dict[str, str]:
        return Prometheus(scraped.url, 0, 0).choices(load()[title])

    assert offered("Cluster") == {"cluster": "compose"}
    assert offered("Training") == {"dataset": "ct-archive", "model": "organ", "job": "organ"}
    jobs = offered("Archive jobs")["job"].split("|")
    assert sorted(job.split("-")[0] for job in jobs) == ["report", "segment"]


def test_every_rule_asks_for_metrics_that_exist_and_runs_without_error(scraped: Scraped) -> None:
    groups = scraped.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 9
    for rule in rules:
        assert rule["health"] == "ok", rule
        assert selectors(parse(rule["query"])) <= scraped.names()


def test_every_dashboard_can_be_drawn(scraped: Scraped, tmp_path: Path) -> None:
    """UNET_BATCH_PICTURES=folder keeps the pictures, to be looked at."""
    folder = Path(os.environ.get("UNET_BATCH_PICTURES", tmp_path))
    now = time.time()
    pictures = draw_all(Prometheus(scraped.url, now - 60, now), folder)
    assert {path.stem for path in pictures} == {"archive-jobs", "quality", "training", "cluster"}
    assert all(path.stat().st_size > 20_000 for path in pictures)
