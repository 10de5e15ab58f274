"""report: from an Archive to one HTML file, the worst Volumes first."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unet_batch.errors import SpecError, StoreError
from unet_batch.formats.nifti import read_nifti, read_nifti_mask
from unet_batch.formats.scan import Mask, Scan
from unet_batch.monitoring.events import Event, VolumeFinished
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.report import report

SHAPE = (6, 20, 24)
CLASSES = (LabelClass(1, "liver <b>"), LabelClass(2, "tumour"))
JOBS = Path(__file__).parents[2] / "jobs"


def block(size: int) -> NDArray[np.uint8]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:5, 2 : 2 + size, 2 : 2 + size] = 1
    return mask


def add(archive: Archive, name: str, size: int, *, truth: int | None = 10) -> None:
    voxels = np.random.default_rng(size).normal(100, 9, (1, *SHAPE)).astype(np.float32)
    archive.write_scan(Scan(name, voxels, np.eye(4), ("image",), "MR"), source={})
    masks = {"net": size} | ({"truth": truth} if truth else {})
    for label, width in masks.items():
        mask = Mask(block(width), np.eye(4), CLASSES)
        archive[name].write_labels(label, mask, provenance={"model": "liver-unet@3"})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    for name, size in (("fine", 10), ("fair", 9), ("bad", 4), ("good", 11)):
        add(archive, name, size)
    add(archive, "untrue", 10, truth=None)
    return archive


def spec_of(archive: Archive, out: Path, **fields: object) -> ReportSpec:
    return ReportSpec.model_validate(
        {"archive": archive.url, "labels": "net", "out": str(out), **fields}
    )


def pictured(html: str) -> list[str]:
    """Ids of the Volumes with pictures, in the order of the page."""
    return re.findall(r"<h3>(\w+)</h3>", html)


@pytest.mark.ray
def test_with_a_truth_the_worst_come_first_and_the_missing_are_named(
    archive: Archive, tmp_path: Path, local_ray: None
) -> None:
    summary = report(spec_of(archive, tmp_path / "out", truth="truth"))
    assert summary.path == str(tmp_path / "out" / "report.html")
    html = Path(summary.path).read_text(encoding="utf-8")
    assert len(html.encode()) == summary.num_bytes
    assert pictured(html) == ["bad", "fair", "good", "fine"]
    assert summary.left_out == {"untrue": "has no truth 'truth'"}
    assert html.count("data:image/webp") == 4 * 3
    assert "liver-unet@3" in html
    assert "liver &lt;b&gt;" in html
    assert "liver <b>" not in html


@pytest.mark.ray
def test_without_a_truth_the_odd_ones_come_first(
    archive: Archive, tmp_path: Path, local_ray: None
) -> None:
    summary = report(spec_of(archive, tmp_path / "odd.html"))
    html = (tmp_path / "odd.html").read_text(encoding="utf-8")
    assert pictured(html)[0] == "bad"
    assert "liver &lt;b&gt; has 0.064 mL, typical are 0.4 mL (" in html
    assert "is cut off" not in html
    assert (summary.num_volumes, summary.num_pictured, summary.left_out) == (5, 5, {})


@pytest.mark.ray
def test_only_the_first_volumes_are_drawn_and_listed(
    archive: Archive, tmp_path: Path, local_ray: None
) -> None:
    heard: list[Event] = []
    spec = spec_of(archive, tmp_path / "r.html", truth="truth", max_volumes=1, max_listed=3)
    summary = report(spec, listen=heard.append)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert pictured(html) == ["bad"]
    assert (summary.num_volumes, summary.num_pictured) == (4, 1)
    assert all(f"<td>{name}" in html for name in ("fair", "good"))
    assert "<td>fine" not in html
    assert "The first 3 of 4" in html
    finished = [(e.volume_id, e.outcome) for e in heard if isinstance(e, VolumeFinished)]
    done = [(name, "done") for name in ("bad", "fair", "fine", "good")]
    assert sorted(finished) == [*done, ("untrue", "skipped")]


@pytest.mark.ray
def test_a_channel_that_a_scan_lacks_leaves_its_numbers_and_says_why(
    archive: Archive, tmp_path: Path, local_ray: None
) -> None:
    summary = report(spec_of(archive, tmp_path / "r.html", truth="truth", channel=3))
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert summary.num_pictured == 0
    assert html.count("channel 3 asked for") == 4


@pytest.mark.ray
def test_a_page_that_cannot_be_written_names_its_path_and_leaves_nothing(
    archive: Archive, tmp_path: Path, local_ray: None
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(StoreError, match="taken"):
        report(spec_of(archive, tmp_path / "taken" / "r.html"))


@pytest.mark.ray
def test_labels_that_no_volume_has_are_an_error(
    archive: Archive, tmp_path: Path, local_ray: None
) -> None:
    with pytest.raises(SpecError, match=r"'nett'.*net, truth"):
        report(spec_of(archive, tmp_path / "r.html", labels="nett"))


@pytest.mark.ray
@pytest.mark.data
def test_a_real_anisotropic_ct_is_drawn_true_to_its_millimetres(
    scans: Path, tmp_path: Path, local_ray: None
) -> None:
    folder = scans / "ct_spleen_msd_crop"
    archive = open_archive(tmp_path / "archive", create=True)
    archive.write_scan(read_nifti(folder / "sub-spleen2_ct.nii.gz", name="spleen"), source={})
    truth = read_nifti_mask(folder / "sub-spleen2_ct_seg-manual.nii.gz")
    archive["spleen"].write_labels("net", truth, provenance={})
    report(spec_of(archive, tmp_path / "r.html"))
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    sizes = [tuple(map(int, s)) for s in re.findall(r'width="(\d+)" height="(\d+)" load', html)]
    axial, coronal, _ = sizes
    assert axial[0] / axial[1] == pytest.approx(164 / 166, abs=0.01)
    assert coronal[0] / coronal[1] == pytest.approx(164 * 0.793 / (26 * 5.0), abs=0.02)


def test_the_ready_job_is_a_valid_spec() -> None:
    assert ReportSpec.load(JOBS / "report.yaml", overrides=["max_volumes=5"]).max_volumes == 5
