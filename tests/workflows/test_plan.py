"""What `plan` says before a Job, and what is kept of it after: no Ray is needed for either."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from unet_batch.formats.scan import Scan
from unet_batch.inference.pool import ReplicaSize
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.monitoring.events import StageTimed
from unet_batch.planning.prediction import JOB_S
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import open_archive
from unet_batch.workflows import calibration, job_volumes
from unet_batch.workflows.job_accounts import account_facts
from unet_batch.workflows.plan import plan
from unet_batch.workflows.prediction import ACCOUNT, Bookkeeper
from unet_batch.workflows.segment_job import SegmentJob

SHAPES = [(20, 24, 28), (40, 30, 30), (20, 24, 28)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> SegmentSpec:
    folder = tmp_path_factory.mktemp("plan")
    archive = open_archive(folder / "archive", create=True)
    for number, shape in enumerate(SHAPES):
        voxels = np.full((1, *shape), number, np.int16)
        archive.write_scan(Scan(f"v{number}", voxels, np.eye(4), ("CT",), "CT"), source={})
    torch.manual_seed(0)
    config = BundleConfig(
        name="tiny", network_name="residual_unet", channels=("CT",), roi=(16, 16, 16),
        network_arguments={"channels": [4, 8], "num_res_units": 1}, spacing_mm=(1, 1, 1),
        classes=(LabelClass(0, "background"), LabelClass(1, "organ")),
    )  # fmt: skip
    save_bundle(folder / "tiny", config, config.build_network().state_dict())
    return SegmentSpec.model_validate({
        "archive": archive.url, "model": str(folder / "tiny"), "labels": "net",
        "resources": {"price_per_hour": 2.5},
    })  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_given_pace_says_time_bytes_and_cost(spec: SegmentSpec) -> None:
    found = plan(spec, seconds_per_tile=10.0, num_replicas=2)
    voxels = sum(int(np.prod(shape)) for shape in SHAPES)
    predicted = found.predicted
    assert (predicted.bytes_read, predicted.bytes_written) == (2 * voxels, voxels)
    assert predicted.tiles == found.tiles_left == found.num_tiles > 30
    assert predicted.seconds == pytest.approx(JOB_S + predicted.tiles * 10 / 2, rel=0.01)
    assert found.predicted_s == predicted.seconds
    assert predicted.cost == pytest.approx(2 * 2.5 * predicted.seconds / 3600)
    assert predicted.memory_bytes is None, "a pace says nothing of it"


def test_nothing_is_known_of_time_without_a_pace(spec: SegmentSpec) -> None:
    found = plan(spec, calibrate=False)
    assert (found.predicted_s, found.calibration, found.predicted.cost) == (None, None, None)
    assert found.predicted.tiles == found.num_tiles


def test_of_many_volumes_the_same_is_said(
    spec: SegmentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = plan(spec, seconds_per_tile=1.0)
    monkeypatch.setattr(job_volumes, "MAX_AT_ONCE", 1)
    assert plan(spec, seconds_per_tile=1.0) == few
    job = SegmentJob.open(spec)
    long = job.plan_without({"v1"}, num_replicas=1)
    assert list(long.volumes) == ["v0", "v2"]
    assert long.volumes["v2"].info == job.archive.info("v2")
    assert "infos" not in vars(job), "no list of all descriptions was made"


def test_a_pace_is_measured_once_and_kept_with_its_circumstances(
    spec: SegmentSpec, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = plan(spec)
    assert first.calibration is not None
    assert first.calibration.seconds_per_tile > 0
    assert first.calibration.start_s > first.calibration.seconds_per_tile
    assert first.calibration.engine.startswith("torch")
    (kept,) = cache.rglob("calibration-*.json")
    assert json.loads(kept.read_text())["circumstances"]["threads"] > 0
    monkeypatch.setattr(calibration, "ProcessPoolExecutor", None)
    assert plan(spec).calibration == first.calibration
    kept.write_text("no JSON")
    with pytest.raises(TypeError):
        plan(spec)


def test_prediction_and_fact_are_kept_and_told(spec: SegmentSpec) -> None:
    job = SegmentJob.open(spec)
    planned = job.plan_without(set(), num_replicas=1)
    books = Bookkeeper.of(job, planned, ReplicaSize(1, 1, 0), set())
    assert books.predicted.tiles == planned.num_tiles
    assert books.predicted.seconds is None, "nothing was measured here yet"
    books(StageTimed("read", 1.0, num_bytes=2000))
    books(StageTimed("predict", 1.0, num_tiles=30, num_skipped=2, peak_rss_bytes=2**30))
    books(StageTimed("write", 1.0, num_bytes=7, num_voxels=1000))
    assert account_facts(job.archive, "net") == []
    books.close(job.archive.ledger(job.id), 36.0)
    assert (books.actual.tiles, books.actual.bytes_read) == (32, 2000)
    assert (books.actual.bytes_written, books.actual.cost) == (1000, pytest.approx(0.025))
    kept = job.archive.ledger(job.id).decision(ACCOUNT)
    assert isinstance(kept, dict)
    assert kept["predicted"] == books.predicted.to_json()
    (_, predicted), (_, taken) = account_facts(job.archive, "net")
    assert predicted.startswith(f"{planned.num_tiles} tiles, ")
    assert taken.startswith("32 tiles, 36 s, 1024 MiB a Replica")
    assert account_facts(job.archive, "other") == []


def test_a_run_with_nothing_to_do_leaves_the_account(spec: SegmentSpec) -> None:
    job = SegmentJob.open(spec)
    ledger = job.archive.ledger(job.id)
    ledger.keep(ACCOUNT, {"finished_at": "2026"})
    everything = {"v0", "v1", "v2"}
    planned = job.plan_without(everything, num_replicas=1)
    Bookkeeper.of(job, planned, ReplicaSize(1, 1, 0), everything).close(ledger, 1.0)
    assert ledger.decision(ACCOUNT) == {"finished_at": "2026"}
