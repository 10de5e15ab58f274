"""evaluate: from two Labels to a table, a summary and events."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from unet_batch.errors import ReplicaError, SpecError
from unet_batch.evaluation.scores import SCORES_SCHEMA
from unet_batch.formats.scan import Mask, Scan
from unet_batch.monitoring.events import (
    ArchiveChecked,
    Event,
    JobFinished,
    JobStarted,
    Scored,
    VolumeFinished,
)
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows import evaluate as workflow
from unet_batch.workflows.evaluate import evaluate

SHAPE = (4, 8, 9)
CLASSES = (LabelClass(0, "background"), LabelClass(1, "liver"), LabelClass(2, "tumour"))
JOBS = Path(__file__).parents[2] / "jobs"


def mask(*, liver: int, tumour: int = 0) -> NDArray[np.uint8]:
    """`liver` and `tumour` slices of each class."""
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[:liver], voxels[4 - tumour :] = 1, 2
    return voxels


def add(archive: Archive, name: str, **masks: NDArray[np.uint8]) -> None:
    scan = Scan(name, np.full((1, *SHAPE), len(name), np.int16), np.eye(4), ("image",), "CT")
    archive.write_scan(scan, source={})
    for label, voxels in masks.items():
        archive[name].write_labels(label, Mask(voxels, np.eye(4), CLASSES), provenance={})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    add(archive, "good", net=mask(liver=2, tumour=1), truth=mask(liver=2, tumour=1))
    add(archive, "poor", net=mask(liver=1), truth=mask(liver=3))
    add(archive, "unlabelled", truth=mask(liver=3))
    add(archive, "untrue", net=mask(liver=3))
    return archive


def spec_of(archive: Archive, **fields: object) -> EvaluateSpec:
    return EvaluateSpec.model_validate(
        {"archive": archive.url, "labels": "net", "truth": "truth", **fields}
    )


@pytest.mark.ray
def test_the_summary_has_dice_by_class_and_names_what_is_missing(
    archive: Archive, local_ray: None
) -> None:
    summary = evaluate(spec_of(archive))
    liver, tumour = summary.classes
    assert (liver.class_name, liver.num_scored, liver.dice.min) == ("liver", 2, 0.5)
    assert liver.dice.mean == pytest.approx(0.75)
    assert liver.dice.interval == pytest.approx((0.5, 1.0))
    assert (tumour.dice.mean, tumour.num_scored, tumour.num_empty) == (1.0, 1, 1)
    assert summary.mean_dice == pytest.approx((0.75 + 1.0) / 2)
    assert summary.overall["hd95_mm"].mean == pytest.approx(liver.metrics["hd95_mm"].mean / 2)
    assert summary.overall["volume_error_ml"].mean == pytest.approx(-72 / 1000 / 2)
    assert summary.without_labels == ("unlabelled",)
    assert summary.without_truth == ("untrue",)
    assert summary.num_scored == 2
    assert json.loads(json.dumps(asdict(summary), allow_nan=False))["failed"] == {}


@pytest.mark.ray
def test_the_table_lies_in_the_archive_with_a_row_for_each_volume_and_class(
    archive: Archive, local_ray: None
) -> None:
    summary = evaluate(spec_of(archive))
    assert summary.table == f"{archive.url}/evaluations/net_vs_truth.parquet"
    table = pq.read_table(summary.table)
    assert table.schema.equals(SCORES_SCHEMA)
    assert table.schema.metadata[b"tolerance_mm"] == b"1.0"
    rows = {(r["volume_id"], r["class_name"]): r for r in table.to_pylist()}
    assert len(rows) == 4
    assert rows["poor", "liver"]["true_ml"] == pytest.approx(3 * 72 / 1000)
    assert rows["poor", "tumour"]["dice"] is None


@pytest.mark.ray
def test_the_table_may_go_elsewhere_and_a_second_run_replaces_it(
    archive: Archive, tmp_path: Path, local_ray: None
) -> None:
    out = tmp_path / "new folder" / "scores.csv"
    for metrics in (["hd95"], ["dice"]):
        summary = evaluate(spec_of(archive, out=str(out), metrics=metrics))
        assert summary.table == str(out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["dice"] for row in rows] == ["1", "1", "0.5", ""]
    assert {row["hd95_mm"] for row in rows} == {""}
    assert summary.classes[0].metrics.keys() == {"dice"}


@pytest.mark.ray
def test_without_a_truth_the_odd_masks_are_told(archive: Archive, local_ray: None) -> None:
    add(archive, "blank", net=mask(liver=0))
    heard: list[Event] = []
    summary = evaluate(spec_of(archive, truth=None), listen=heard.append)
    first = summary.odd[0]
    assert (first.volume_id, first.findings[0].kind) == ("blank", "empty")
    assert (summary.mean_dice, summary.num_scored) == (None, 4)
    assert summary.table == f"{archive.url}/evaluations/net.parquet"
    (checked,) = (e for e in heard if isinstance(e, ArchiveChecked))
    assert checked.num_volumes == 4
    assert checked.outliers["empty"] == 1
    assert not any(isinstance(e, Scored) for e in heard)


@pytest.mark.ray
def test_events_tell_each_volume_once_and_each_class(archive: Archive, local_ray: None) -> None:
    heard: list[Event] = []
    evaluate(spec_of(archive), listen=heard.append)
    assert isinstance(heard[0], JobStarted)
    assert heard[0].num_volumes == 4
    assert isinstance(heard[-1], JobFinished)
    finished = {e.volume_id: e.outcome for e in heard if isinstance(e, VolumeFinished)}
    assert finished == {
        "good": "done",
        "poor": "done",
        "unlabelled": "skipped",
        "untrue": "skipped",
    }
    scored = {(e.volume_id, e.class_name): e.dice for e in heard if isinstance(e, Scored)}
    assert scored["poor", "liver"] == 0.5
    assert np.isnan(scored["poor", "tumour"])


@pytest.mark.ray
def test_a_volume_that_cannot_be_read_is_named_and_the_others_scored(
    archive: Archive, local_ray: None
) -> None:
    labels = Path(archive.url) / "volumes" / "poor" / "labels" / "net"
    next(p for p in labels.rglob("*") if p.is_file() and p.name != "zarr.json").unlink()
    summary = evaluate(spec_of(archive))
    assert summary.num_scored == 1
    assert "missing" in summary.failed["poor"]


@pytest.mark.ray
def test_no_volume_with_both_is_an_error_that_names_the_labels(
    archive: Archive, local_ray: None
) -> None:
    with pytest.raises(SpecError, match=r"'other'.*Labels there are: net, truth"):
        evaluate(spec_of(archive, truth="other"))


@pytest.mark.ray
def test_an_output_of_another_kind_is_refused_before_any_work(
    archive: Archive, local_ray: None
) -> None:
    with pytest.raises(SpecError, match=r"\.parquet"):
        evaluate(spec_of(archive, out="scores.txt"))


def test_without_ray_the_error_says_so(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ray() -> None:
        raise ReplicaError("Ray is not running")

    monkeypatch.setattr(workflow, "require_ray", no_ray)
    with pytest.raises(ReplicaError):
        evaluate(spec_of(archive))


def test_the_ready_job_is_a_valid_spec() -> None:
    spec = EvaluateSpec.load(JOBS / "evaluate.yaml", overrides=["volumes=['case_*']"])
    assert spec.volumes == ("case_*",)


def test_a_labels_name_that_leaves_its_folder_is_refused() -> None:
    with pytest.raises(SpecError, match="labels"):
        EvaluateSpec.load(arguments={"archive": "a", "labels": "../x", "truth": "t"})
