"""One scan into the Archive, from a folder or a bucket: the same Volume, and no place leaks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from unet_batch.formats.deidentify import Pseudonyms
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.discovery import discover
from unet_batch.formats.itk import write_nrrd
from unet_batch.formats.scan import Scan
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.bucket_tree import locator
from unet_batch.workflows.ingest_scan import IngestRules, ScanOutcome, ingest_scan

KEY = Pseudonyms(b"k" * 32)


@pytest.fixture(autouse=True)
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files."""
    folder = tmp_path / "rooms"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def ingested(
    sources: list[str], archive: Path, *, rules: dict[str, Any] | None = None, **options: Any
) -> tuple[Archive, dict[str, ScanOutcome]]:
    opened = open_archive(archive, create=True)
    made = IngestRules(opened.url, {}, KEY, **(rules or {}))
    found = discover(sources, locate=locator(), **options).scans
    outcomes = [ingest_scan(source, made) for source in found]
    return opened, {outcome.name: outcome for outcome in outcomes}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def some_scans(scans: Path, folder: Path) -> Path:
    """DICOM with a SEG, a scanner's own series, NIfTI with masks, nuclei with masks by object."""
    shutil.copytree(scans / "dicom_ct_seg_dcmqi", folder / "ct")
    shutil.copytree(scans / "dicom_mr_scanner_sagittal", folder / "mr")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
        for path in sorted((scans / "mr_hippocampus_msd" / kind).iterdir())[:3]:
            shutil.copy(path, folder / kind)
    for path in sorted((scans / "nuclei_dsb2018_2d").iterdir())[:2]:
        shutil.copytree(path, folder / "nuclei" / path.name)
    return folder


@pytest.mark.data
def test_a_bucket_gives_the_volumes_that_a_folder_gives(
    scans: Path, tmp_path: Path, upload: Callable[[Path], str], rooms: Path
) -> None:
    folder = some_scans(scans, tmp_path / "scans")
    labels = []
    for name, root in (("a", str(folder)), ("b", upload(folder))):
        truth = {
            "liver": f"{root}/{{folder}}/liver.dcm",
            "reference": f"{root}/labels",
            "nuclei": f"{root}/nuclei/{{stem}}/masks",
        }
        archive, outcomes = ingested([root], tmp_path / name, truth=truth, exclude=["*_seg.nrrd"])
        labels.append({k: sorted(archive[k].labels) for k, o in outcomes.items() if not o.reason})
    assert labels[0] == labels[1]
    assert sorted(map(str, labels[0].values())) == [
        "['liver']", "['nuclei']", "['nuclei']", *["['reference']"] * 3, "[]"
    ]  # fmt: skip
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not list(rooms.iterdir())


def series(folder: Path, name: str) -> None:
    voxels = np.arange(100, dtype=np.int16).reshape(1, 5, 4, 5)
    write_dicom_series(folder, Scan(name, voxels, np.eye(4), ("CT",), "CT"))


@pytest.mark.parametrize("keeps", [True, False])
def test_messages_name_the_object_or_the_scan_and_never_where_it_was_staged(
    tmp_path: Path, upload: Callable[[Path], str], *, keeps: bool, rooms: Path
) -> None:
    folder = tmp_path / "scans"
    series(folder / "ct", "ct")
    (folder / "ct/000001.dcm").unlink()
    (folder / "a.nrrd").write_bytes(b"no NRRD")
    root = upload(folder)
    _, outcomes = ingested([root], tmp_path / "archive", rules={"keeps_identifiers": keeps})
    assert set(outcomes) == {"a", "ct"}
    for name, where in (("a", f"{root}/a.nrrd"), ("ct", f"{root}/ct")):
        reason = outcomes[name].reason
        assert reason
        assert str(rooms) not in reason
        assert (where in reason) is keeps


def test_too_large_a_scan_is_quarantined_under_its_own_name(
    tmp_path: Path, upload: Callable[[Path], str]
) -> None:
    series(tmp_path / "scans/ct", "ct")
    root = upload(tmp_path / "scans")
    _, outcomes = ingested([root], tmp_path / "archive", rules={"max_staged_bytes": 1000})
    reason = outcomes["ct"].reason
    assert reason.startswith("file 1 of ct: this scan is ")
    assert "bytes of objects, `staging` allows 1000" in reason


def zarr_with_labels(path: Path) -> Path:
    group = zarr.open_group(str(path), mode="w")
    labels = group.create_group("labels")
    labels.attrs["ome"] = {"version": "0.5", "labels": ["cells", "broken"]}
    axes = [{"name": n, "unit": "micrometer"} for n in "zyx"]
    transforms = [{"type": "scale", "scale": [2000.0, 1000.0, 1000.0]}]
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    for one in (group, labels.create_group("cells")):
        one.create_array("0", data=np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
        multiscales = [{"axes": axes, "datasets": datasets}]
        one.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    return path


@pytest.mark.parametrize("is_copied", [True, False])
@pytest.mark.parametrize("is_remote", [True, False])
def test_masks_that_come_with_an_image_become_labels(
    tmp_path: Path, upload: Callable[[Path], str], *, is_copied: bool, is_remote: bool
) -> None:
    zarr_with_labels(tmp_path / "scans/v.ome.zarr")
    root = upload(tmp_path / "scans") if is_remote else str(tmp_path / "scans")
    rules = {"copies_ome_zarr": is_copied}
    archive, outcomes = ingested([root], tmp_path / "archive", rules=rules)
    info = outcomes["v"].info
    assert info is not None
    assert (info.outside is None) is is_copied
    assert "'broken' in its `labels` was left out" in " ".join(info.warnings)
    labels = archive["v"].labels["cells"]
    assert np.array_equal(labels.stored[:], np.arange(24).reshape(2, 3, 4))
    assert labels.provenance["kind"] == "embedded"


def test_masks_that_come_along_can_be_left_or_overruled(tmp_path: Path) -> None:
    source = str(zarr_with_labels(tmp_path / "v.ome.zarr"))
    archive, _ = ingested([source], tmp_path / "a", rules={"takes_embedded_labels": False})
    assert not list(archive["v"].labels)
    (tmp_path / "masks").mkdir()
    affine = np.array(archive["v"].affine)
    write_nrrd(tmp_path / "masks/v.nrrd", np.ones((2, 3, 4), np.uint8), affine)
    truth = {"cells": str(tmp_path / "masks")}
    archive, _ = ingested([source], tmp_path / "b", truth=truth)
    assert archive["v"].labels["cells"].provenance["kind"] == "truth"
