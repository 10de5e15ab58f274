"""Planted identifiers: none of them is found in the Archive, the metrics, the logs, the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import ray

from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.phantom import phantom
from unet_batch.monitoring.events import Event
from unet_batch.monitoring.metrics import JobMetrics
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.ingest import IngestSummary, ingest
from unet_batch.workflows.report import report

PLANTED = {
    "PatientName": "Mustermann^Xaver",
    "PatientID": "PID-77889900112",
    "OtherPatientIDs": "OTHER-55660099123",
    "PatientBirthDate": "19510317",
    "PatientAddress": "Musterweg 77, Entenhausen",
    "ReferringPhysicianName": "Quacksalber^Theo",
    "AccessionNumber": "ACC-33445500887",
    "StudyDate": "20190226",
    "StudyDescription": "CT of Xaver Mustermann",
    "SeriesDescription": "for Dr Quacksalber",
    "InstitutionName": "Klinik Entenhausen",
    "BodyPartExamined": "MUSTERMANN",
    "PatientComments": "lives in Entenhausen",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.777",
}
SECRETS = (
    "mustermann", "xaver", "77889900112", "55660099123", "19510317", "entenhausen", "quacksalber",
    "33445500887", "20190226", "2019-02-26", "3680043.8.498.777", "geheimrat",
)  # fmt: skip


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two series of one patient in folders that name him, one of them broken; NIfTI with texts."""
    scans = tmp_path / "in"
    for number, folder in enumerate(
        ("Mustermann_Xaver/PID-77889900112_ct", "ACC-33445500887 20190226")
    ):
        for path in write_dicom_series(scans / folder, phantom(number, shape_zyx=(5, 12, 14))[0]):
            dataset = pydicom.dcmread(path)
            for keyword, value in PLANTED.items():
                setattr(dataset, keyword, value)
            private = dataset.private_block(0x0009, "GEHEIMRAT", create=True)
            private.add_new(0x01, "LO", "Xaver Mustermann")
            dataset.save_as(path)
    broken = scans / "ACC-33445500887 20190226" / "000001.dcm"
    broken.write_bytes(broken.read_bytes()[:900])
    (scans / "ACC-33445500887 20190226" / "Mustermann.txt").write_text("Xaver")
    nifti: Any = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    for field, text in {
        "descrip": "Geheimrat",
        "db_name": "Xaver",
        "aux_file": "77889900112",
    }.items():
        nifti.header[field] = text
    nibabel.save(nifti, scans / "knee.nii")
    (tmp_path / "masks").mkdir()
    nibabel.save(
        nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4)), tmp_path / "masks/knee.nii.gz"
    )
    return tmp_path


def ingested(hospital: Path, listen: Any, **fields: Any) -> IngestSummary:
    content = {
        "archive": str(hospital / "archive"),
        "sources": [str(hospital / "in")],
        "truth": {"ref": str(hospital / "masks")},
    }
    return ingest(IngestSpec.model_validate(content | fields), listen=listen)


@pytest.mark.ray
def test_no_planted_identifier_leaves_the_source(
    local_ray: None, hospital: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []
    metrics = JobMetrics()

    def listen(event: Event) -> None:
        events.append(event)
        metrics(event)

    summary = ingested(hospital, listen)
    assert len(summary.done) == 2
    assert len(summary.quarantined) == 1
    report(
        ReportSpec(archive=summary.archive, labels="ref", out=str(hospital / "report")),
        listen=listen,
    )
    texts = dict(texts_of(hospital / "archive"))
    texts |= dict(texts_of(hospital / "report"))
    texts |= dict(texts_of(Path(ray._private.worker._global_node.get_logs_dir_path())))
    texts["summary"] = json.dumps(asdict(summary))
    texts["events"] = repr(events)
    metrics.write_textfile(hospital / "metrics.prom")
    texts["metrics"] = (hospital / "metrics.prom").read_text()
    texts["output"] = "".join(capfd.readouterr())
    assert any("catalog" in name for name in texts)
    assert any("report.html" in name for name in texts)
    leaks = {(name, one) for name, text in texts.items() for one in SECRETS if one in text.lower()}
    assert not leaks


@pytest.mark.ray
def test_a_patient_is_one_pseudonym_and_dates_are_moved(local_ray: None, hospital: Path) -> None:
    ingested(hospital, lambda event: None)
    archive = open_archive(hospital / "archive")
    volume = next(v for name, v in archive.items() if name != "knee")
    patient = archive.pseudonyms().of("PID-77889900112")
    assert volume.id == f"anon-{patient[:8]}_anon-{patient[:8]}_ct"
    assert volume.metadata["patient"] == patient
    assert str(volume.metadata["StudyInstanceUID"]).startswith("2.25.")
    assert "2009" <= str(volume.metadata["StudyDate"])[:4] <= "2019"


@pytest.mark.ray
def test_quarantine_is_listed_until_the_scan_is_mended(local_ray: None, hospital: Path) -> None:
    summary = ingested(hospital, lambda event: None)
    archive = open_archive(hospital / "archive")
    (entry,) = archive.quarantine.entries()
    assert {entry.id: entry.reason} == summary.quarantined
    assert f"of {entry.id}: ends before its pixels" in entry.reason
    folder = hospital / "in" / "ACC-33445500887 20190226"
    (folder / "000001.dcm").unlink()
    for path in sorted(folder.glob("*.dcm"))[:1]:
        path.unlink()  # slices 2 to 4 are left: an even stack
    ingested(hospital, lambda event: None)
    assert archive.quarantine.entries() == []


@pytest.mark.ray
def test_identifiers_are_kept_where_that_is_asked_for(local_ray: None, hospital: Path) -> None:
    ingested(hospital, lambda event: None, keep_identifiers=True)
    volume = open_archive(hospital / "archive")["Mustermann_Xaver_PID-77889900112_ct"]
    assert volume.metadata["PatientName"] == "Mustermann^Xaver"
    assert volume.metadata["StudyDate"] == "20190226"


@pytest.mark.ray
def test_ids_can_be_digests_and_masks_still_find_their_scans(
    local_ray: None, hospital: Path
) -> None:
    ingested(hospital, lambda event: None, ids="hashed")
    archive = open_archive(hospital / "archive")
    assert all(name.startswith("scan-") for name in archive)
    assert sum("ref" in volume.labels for volume in archive.values()) == 1


def texts_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below `folder` by its name, Parquet decoded, names themselves among the texts."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(folder.parent))
            is_table = path.suffix == ".parquet"
            text = str(pq.read_table(path).to_pylist()) if is_table else ""
            yield name, name + text + path.read_bytes().decode("latin-1")
