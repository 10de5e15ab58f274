"""Export: what went in comes out, voxel by voxel and on the same grid, in every orientation."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pydicom
import pytest

from unet_batch.errors import NotFoundError, SpecError
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.geometry import onto_grid
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.masks import read_masks
from unet_batch.formats.nifti import read_nifti, read_nifti_mask
from unet_batch.formats.phantom import phantom
from unet_batch.formats.scan import Mask
from unet_batch.monitoring.events import Event, VolumeFinished
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.workflows.export import export

JOBS = Path(__file__).resolve().parents[2] / "jobs"
PATIENT07 = "mr_ms_lesion_4ch/patient07/GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI"
ORIENTATIONS = (
    "ct_mr_pet_sarcoma_ibsi/nifti/STS_003/CT_image",  # LPS, qform only
    "ct_spleen_msd_crop/sub-spleen2_ct",  # RAS, sform only
    "mr_spinalcord_sct/t2/t2",  # PSR, oblique
    "mr_spinalcord_sct/t2s/t2s",  # LAS, oblique
    PATIENT07,  # LAS, qform only
)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Two phantoms; the first has Labels."""
    archive = open_archive(tmp_path / "archive", create=True)
    for seed in range(2):
        scan, mask = phantom(seed, shape_zyx=(12, 14, 16))
        archive.write_scan(scan, source={})
        if seed == 0:
            archive[scan.name].write_labels("ref", mask, provenance={})
    return archive


def test_probabilities_come_out_beside_the_mask(archive: Archive, tmp_path: Path) -> None:
    info = archive["phantom_000"].info
    classes = (LabelClass(0, "background"), LabelClass(1, "organ"))
    writer = LabelsWriter.for_volume(
        archive.url, info, name="net", classes=classes, key="k", probabilities=("a", "b")
    )
    values = np.random.default_rng(0).integers(0, 256, (2, *info.shape_zyx), np.uint8)
    writer.prepare()
    for region in writer.write_regions():
        voxels = values[:, *region.slices]
        writer.write(region, (voxels[1] > 127).astype(np.uint8), voxels)
    writer.publish({})
    spec = {"archive": archive.url, "out": str(tmp_path), "probabilities": True}
    summary = export(ExportSpec(labels="net", **spec))
    found = read_nifti(tmp_path / "phantom_000.probabilities.nii.gz")
    np.testing.assert_array_equal(found.voxels_czyx, values)
    assert summary.done == ("phantom_000",)
    failed = export(ExportSpec(labels="ref", **spec)).failed
    assert "came without probabilities" in failed["phantom_000"]


def test_masks_come_out_on_the_scans_grid(archive: Archive, tmp_path: Path) -> None:
    events: list[Event] = []
    spec = ExportSpec(archive=archive.url, labels="ref", out=str(tmp_path / "deep/out"))
    summary = export(spec, listen=events.append)
    assert (summary.done, summary.missing) == (("phantom_000",), ("phantom_001",))
    mask = read_nifti_mask(tmp_path / "deep/out/phantom_000.nii.gz")
    assert np.array_equal(mask.voxels_zyx, phantom(0, shape_zyx=(12, 14, 16))[1].voxels_zyx)
    assert np.allclose(mask.affine, archive["phantom_000"].affine, rtol=1e-6, atol=1e-6)
    told = [e.reason for e in events if isinstance(e, VolumeFinished) and e.outcome == "skipped"]
    assert told == ["no Labels 'ref'; it has none"]
    assert json.loads(json.dumps(asdict(summary)))["done"] == ["phantom_000"]


@pytest.mark.data
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_real_scans_come_out_as_they_went_in(name: str, scans: Path, tmp_path: Path) -> None:
    scan = read_nifti(scans / f"{name}.nii.gz", name="scan")
    archive = open_archive(tmp_path / "archive", create=True)
    archive.write_scan(scan, source={})
    labels = (scan.voxels_czyx[0] > scan.voxels_czyx.mean()).astype(np.uint8)
    mask = Mask(labels, scan.affine, (LabelClass(0, "background"), LabelClass(1, "bright")))
    archive["scan"].write_labels("bright", mask, provenance={})
    export(ExportSpec(archive=archive.url, image=True, out=str(tmp_path / "image")))
    export(ExportSpec(archive=archive.url, labels="bright", out=str(tmp_path / "mask")))
    again = read_nifti(tmp_path / "image/scan.nii.gz")
    assert again.voxels_czyx.dtype == scan.voxels_czyx.dtype
    assert np.array_equal(again.voxels_czyx, scan.voxels_czyx)
    assert np.abs(again.affine - scan.affine).max() < 1e-6
    exported = read_nifti_mask(tmp_path / "mask/scan.nii.gz")
    assert np.array_equal(exported.voxels_zyx, labels)
    assert np.array_equal(exported.affine, again.affine)


def test_a_damaged_volume_is_reported_and_the_others_come_out(
    archive: Archive, tmp_path: Path
) -> None:
    files = (tmp_path / "archive/volumes/phantom_000").rglob("*")
    shards = [path for path in files if path.is_file() and path.name != "zarr.json"]
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[:20])
    spec = ExportSpec(archive=archive.url, image=True, out=str(tmp_path / "out"))
    summary = export(spec)
    assert (summary.done, list(summary.failed)) == (("phantom_001",), ["phantom_000"])


@pytest.mark.parametrize("kind", ["nrrd", "dicom-seg"])
def test_masks_come_out_in_other_formats(kind: str, archive: Archive, tmp_path: Path) -> None:
    spec = {"archive": archive.url, "labels": "ref", "out": str(tmp_path / "out"), "format": kind}
    summary = export(ExportSpec.model_validate(spec))
    assert (summary.done, summary.failed) == (("phantom_000",), {})
    scan, truth = phantom(0, shape_zyx=(12, 14, 16))
    suffix = {"nrrd": ".nrrd", "dicom-seg": ".seg.dcm"}[kind]
    again = read_masks(tmp_path / f"out/phantom_000{suffix}", scan, "ref", MaskRules())["ref"]
    placed = onto_grid(again, scan.affine, (12, 14, 16))
    assert np.array_equal(placed.voxels_zyx, truth.voxels_zyx)


def test_a_table_tells_millilitres_of_every_class(archive: Archive, tmp_path: Path) -> None:
    export(ExportSpec(archive=archive.url, labels="ref", out=str(tmp_path / "out")))
    with (tmp_path / "out/volumes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scan, truth = phantom(0, shape_zyx=(12, 14, 16))
    assert [(row["volume"], row["value"], row["class"]) for row in rows] == [
        ("phantom_000", str(c.value), c.name) for c in truth.classes if c.value
    ]
    for row in rows:
        count = np.count_nonzero(truth.voxels_zyx == int(row["value"]))
        assert int(row["voxels"]) == count
        assert float(row["ml"]) == pytest.approx(count * np.prod(scan.spacing_mm) / 1000, rel=1e-5)
    assert any(float(row["ml"]) > 0 for row in rows)


def test_a_segmentation_refers_to_the_original_series(archive: Archive, tmp_path: Path) -> None:
    scan, _ = phantom(0, shape_zyx=(12, 14, 16))
    series = write_dicom_series(tmp_path / "scans/phantom_000", scan)
    spec = ExportSpec(
        archive=archive.url,
        labels="ref",
        out=str(tmp_path / "out"),
        format="dicom-seg",
        seg_type="labelmap",
        dicom_series=f"{tmp_path}/scans/{{name}}",
    )
    assert export(spec).done == ("phantom_000",)
    seg = pydicom.dcmread(tmp_path / "out/phantom_000.seg.dcm")
    assert seg.SegmentationType == "LABELMAP"
    assert seg.StudyInstanceUID == pydicom.dcmread(series[0]).StudyInstanceUID
    for path in series:
        path.unlink()
    assert "no DICOM file for a SEG" in export(spec).failed["phantom_000"]


def test_patterns_choose_volumes(archive: Archive, tmp_path: Path) -> None:
    spec = ExportSpec(archive=archive.url, image=True, out=str(tmp_path), volumes=("*_001",))
    assert export(spec).done == ("phantom_001",)
    with pytest.raises(SpecError, match="phantom_7"):
        export(spec.model_copy(update={"volumes": ("phantom_7",)}))


def test_no_archive_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no Archive at"):
        export(ExportSpec(archive=str(tmp_path / "none"), image=True, out=str(tmp_path)))


def test_the_ready_spec_is_valid_and_says_one_thing() -> None:
    assert ExportSpec.load(JOBS / "export.yaml").labels == "prediction"
    for fields in ({}, {"labels": "a", "image": True}):
        with pytest.raises(SpecError, match="either labels: NAME, or image: true"):
            ExportSpec.load(arguments={"archive": "a", "out": "b", **fields})
    for fields in ({"image": True, "format": "dicom-seg"}, {"labels": "a", "dicom_series": "x"}):
        with pytest.raises(SpecError, match="dicom-seg"):
            ExportSpec.load(arguments={"archive": "a", "out": "b", **fields})
