"""Ingest: real and made-up scans in, whatever fails named, a second time nothing to do."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from unet_batch.errors import ReplicaError, SpecError
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.dicom_seg_writer import write_dicom_seg
from unet_batch.formats.itk import write_nrrd
from unet_batch.formats.nifti import read_nifti, write_nifti
from unet_batch.formats.phantom import phantom
from unet_batch.monitoring.events import Event, JobFinished, JobStarted, VolumeFinished
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.ingest import ingest
from unet_batch.workflows.pyramids import build

JOBS = Path(__file__).resolve().parents[2] / "jobs"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Three phantoms, one of them DICOM, all with truth; and a broken file."""
    for seed in range(3):
        scan, mask = phantom(seed, shape_zyx=(12, 14, 16), spacing_mm=(4, 3, 2))
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        if seed == 0:
            write_dicom_series(folder / scan.name, scan)
        else:
            write_nifti(folder / f"{scan.name}.nii.gz", scan.voxels_czyx, scan.affine)
        write_nifti(tmp_path / f"labels/{scan.name}.nii.gz", mask.voxels_zyx, mask.affine)
    (tmp_path / "images/broken.nii.gz").write_bytes(b"no scan")
    return tmp_path


def spec_for(sources: Path, **fields: Any) -> IngestSpec:
    content: dict[str, Any] = {
        "archive": str(sources / "archive"),
        "sources": [str(sources / "images")],
        "truth": {"ref": str(sources / "labels")},
        "class_names": {"ref": {1: "liver", 2: "kidney", 3: "spleen"}},
    }
    return IngestSpec.model_validate(content | fields)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.ray
def test_scans_and_truth_arrive_voxel_by_voxel(local_ray: None, sources: Path) -> None:
    summary = ingest(spec_for(sources))
    archive = open_archive(sources / "archive")
    assert summary.done == ("phantom_000", "phantom_001", "phantom_002") == tuple(archive)
    for seed, volume in enumerate(archive.values()):
        scan, mask = phantom(seed, shape_zyx=(12, 14, 16), spacing_mm=(4, 3, 2))
        assert np.array_equal(volume.image.compute(scheduler="synchronous"), scan.voxels_czyx)
        assert np.abs(volume.affine - scan.affine).max() < 1e-5
        truth = volume.labels["ref"]
        assert np.array_equal(truth.array.compute(scheduler="synchronous"), mask.voxels_zyx)
        assert [c.name for c in truth.classes] == ["background", "liver", "kidney", "spleen"]
    assert [row.labels for row in archive.catalog.rows()] == [("ref",)] * 3


@pytest.mark.ray
def test_a_broken_file_is_quarantined_with_its_reason(local_ray: None, sources: Path) -> None:
    events: list[Event] = []
    summary = ingest(spec_for(sources), listen=events.append)
    assert list(summary.quarantined) == ["broken"]
    assert "expected NIfTI" in summary.quarantined["broken"]
    assert json.loads(json.dumps(asdict(summary)))["quarantined"] == dict(summary.quarantined)
    assert events[0] == JobStarted("ingest", "ingest", "", num_volumes=4, dataset="archive")
    assert isinstance(events[-1], JobFinished)
    outcomes = sorted(e.outcome for e in events if isinstance(e, VolumeFinished))
    assert outcomes == ["done", "done", "done", "quarantined"]


@pytest.mark.ray
def test_a_second_ingest_changes_nothing(local_ray: None, sources: Path) -> None:
    ingest(spec_for(sources))
    before = {k: v for k, v in contents(sources / "archive").items() if "catalog" not in k}
    again = ingest(spec_for(sources))
    assert (again.done, len(again.skipped)) == ((), 3)
    after = {k: v for k, v in contents(sources / "archive").items() if "catalog" not in k}
    assert after == before


@pytest.mark.ray
def test_truth_can_be_added_later(local_ray: None, sources: Path) -> None:
    ingest(spec_for(sources, truth={}, class_names={}))
    summary = ingest(spec_for(sources))
    assert len(summary.done) == 3
    assert "ref" in open_archive(sources / "archive")["phantom_001"].labels


@pytest.mark.ray
def test_other_content_of_the_same_name_is_quarantined(local_ray: None, sources: Path) -> None:
    ingest(spec_for(sources, truth={}))
    scan, _ = phantom(9, shape_zyx=(12, 14, 16))
    write_nifti(sources / "images/phantom_001.nii.gz", scan.voxels_czyx, scan.affine)
    summary = ingest(spec_for(sources, truth={}))
    assert "phantom_001" in summary.quarantined
    assert "holds another scan" in summary.quarantined["phantom_001"]


@pytest.mark.ray
def test_a_bad_mask_quarantines_before_anything_is_written(local_ray: None, sources: Path) -> None:
    scan, _ = phantom(1, shape_zyx=(12, 14, 16))
    write_nifti(sources / "labels/phantom_001.nii.gz", scan.voxels_czyx / 7, scan.affine)
    summary = ingest(spec_for(sources))
    assert "whole numbers" in summary.quarantined["phantom_001"]
    assert "phantom_001" not in open_archive(sources / "archive")


@pytest.mark.ray
def test_odd_scans_are_stored_with_a_warning(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    voxels = np.full((3, 4, 5), 2, np.float32)
    write_nifti(tmp_path / "images/flat.nii.gz", voxels, np.diag([1.0, 1, 30, 1]))
    summary = ingest(spec_for(tmp_path, truth={}))
    constant = "channel 0 is constant: every voxel is 2"
    assert constant in summary.warnings["flat"]
    assert constant in open_archive(tmp_path / "archive").info("flat").warnings


@pytest.mark.ray
def test_no_path_or_name_reaches_the_archive(local_ray: None, sources: Path) -> None:
    for path in (sources / "images/phantom_000").iterdir():
        content = path.read_bytes()
        assert b"PN\x00\x00" in content
        path.write_bytes(content.replace(b"PN\x00\x00", b"PN\x06\x00Muster", 1))
    (sources / "images/broken.nii.gz").unlink()
    assert not ingest(spec_for(sources)).quarantined
    for name, content in contents(sources / "archive").items():
        assert b"Muster" not in content, name
        assert str(sources / "images").encode() not in content, name


@pytest.mark.ray
@pytest.mark.data
def test_real_scans_are_ingested(local_ray: None, scans: Path, tmp_path: Path) -> None:
    nifti, dicom = (scans / "ct_mr_pet_sarcoma_ibsi" / kind for kind in ("nifti", "dicom"))
    spec = IngestSpec(
        archive=str(tmp_path / "archive"),
        sources=(f"{nifti}/*/CT_image.nii.gz", str(dicom / "STS_002/PET")),
        truth={"gtv": f"{nifti}/{{folder}}/CT_mask.nii.gz"},
        class_names={"gtv": {1: "tumour"}},
    )
    summary = ingest(spec)
    assert not summary.quarantined
    volume = open_archive(tmp_path / "archive")["STS_008_CT_image"]
    mask = read_nifti(nifti / "STS_008/CT_mask.nii.gz").voxels_czyx[0]
    assert np.array_equal(volume.labels["gtv"].array.compute(scheduler="synchronous"), mask)
    assert open_archive(tmp_path / "archive").info("image").modality == "PT"


@pytest.mark.ray
def test_every_format_arrives_with_its_truth(local_ray: None, tmp_path: Path) -> None:
    scan, mask = phantom(1, shape_zyx=(12, 14, 16))
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    write_nrrd(tmp_path / "images/a.nrrd", scan.voxels_czyx, scan.affine)
    write_nrrd(tmp_path / "labels/a.nrrd", mask.voxels_zyx * np.uint8(80), mask.affine)
    open_archive(tmp_path / "other", create=True).write_scan(scan, source={})
    (tmp_path / f"other/volumes/{scan.name}").rename(tmp_path / "images/b.ome.zarr")
    write_dicom_seg(tmp_path / "labels/b.dcm", mask, name="b")
    values = {"ref": {80: 1}}
    refused = ingest(spec_for(tmp_path, mask_values=values))
    assert refused.done == ("b",)
    assert "values 160 (20 voxels)" in refused.quarantined["a"]
    values["ref"][161] = 2
    nearest = spec_for(tmp_path, mask_values=values, stray_mask_values="nearest")
    assert ingest(nearest).done == ("a",)
    archive = open_archive(tmp_path / "archive")
    for volume in archive.values():
        assert np.array_equal(volume.image.compute(scheduler="synchronous"), scan.voxels_czyx)
        assert np.allclose(volume.affine, scan.affine, atol=1e-9)
    truth = archive["b"].labels["ref"].array.compute(scheduler="synchronous")
    assert np.array_equal(truth, mask.voxels_zyx)
    assert any("stray mask values" in text for text in archive.info("a").warnings)


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch, sources: Path) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ReplicaError, match=r"ray\.init"):
        ingest(spec_for(sources))


def test_the_ready_spec_is_valid() -> None:
    spec = IngestSpec.load(JOBS / "ingest.yaml")
    assert spec.class_names == {"reference": {1: "organ"}}
    assert spec.model_fields_set == set(IngestSpec.model_fields), "it shows every field"


@pytest.mark.parametrize(
    "bad", [{"sources": []}, {"truth": {"../x": "y"}}, {"class_names": {"a": {-1: "b"}}}]
)
def test_unsafe_specs_are_refused(bad: dict[str, Any]) -> None:
    arguments = {"archive": "a", "sources": ["b"], **bad}
    with pytest.raises(SpecError, match=next(iter(bad))):
        IngestSpec.load(arguments=arguments)


@pytest.mark.ray
def test_ome_zarr_is_taken_in_place_or_copied(local_ray: None, tmp_path: Path) -> None:
    scan, mask = phantom(1, shape_zyx=(12, 14, 16), spacing_mm=(4, 3, 2))
    made = open_archive(tmp_path / "other", create=True)
    made.write_scan(scan, source={})
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    shutil.move(tmp_path / "other/volumes" / scan.name, tmp_path / "images/p.ome.zarr")
    write_nifti(tmp_path / "labels/p.nii.gz", mask.voxels_zyx, mask.affine)
    before = contents(tmp_path / "images")
    summary = ingest(spec_for(tmp_path))
    archive = open_archive(tmp_path / "archive")
    assert summary.done == ("p",)
    assert archive.info("p").outside is not None
    assert np.array_equal(archive["p"].stored[:], scan.voxels_czyx)
    assert np.array_equal(archive["p"].labels["ref"].stored[:], mask.voxels_zyx)
    assert ingest(spec_for(tmp_path)).skipped == ("p",)
    assert ingest(spec_for(tmp_path, copy_ome_zarr=True)).done == ("p",)
    assert archive.info("p").outside is None
    assert np.array_equal(open_archive(archive.url)["p"].stored[:], scan.voxels_czyx)
    assert contents(tmp_path / "images") == before


@pytest.mark.ray
def test_pyramids_are_built_at_ingest_or_later(local_ray: None, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (130, 130, 130)).astype(np.int16)
    for folder, content in (("images", voxels), ("labels", (voxels > 4).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        write_nifti(tmp_path / folder / "a.nii", content, np.eye(4))
    spec = spec_for(tmp_path, class_names={})
    ingest(spec.model_copy(update={"pyramids": True}))
    ingest(spec.model_copy(update={"archive": str(tmp_path / "later")}))
    assert build(str(tmp_path / "later")).done == ("a",)
    for group in ("volumes/a", "volumes/a/labels/ref"):
        first, second = (
            json.loads((tmp_path / archive / group / "zarr.json").read_text())["attributes"]
            for archive in ("archive", "later")
        )
        assert first == second
        assert len(first["ome"]["multiscales"][0]["datasets"]) == 2
    assert np.array_equal(open_archive(tmp_path / "later")["a"].stored[0], voxels)
