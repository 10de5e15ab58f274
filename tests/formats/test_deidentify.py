"""De-identification: equal identifiers, equal pseudonyms; nothing personal in ids and messages."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.errors import UnreadableScanError
from unet_batch.formats.deidentify import (
    MAX_SHIFT_DAYS,
    Identity,
    Pseudonyms,
    deidentified,
    identified,
    identity_of,
    looks_personal,
    read_identity,
    scrub,
    without_places,
)
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.phantom import phantom
from unet_batch.formats.scan import Scan

OURS, THEIRS = Pseudonyms(b"k" * 32), Pseudonyms(b"l" * 32)
MUSTER = Identity(
    {
        "PatientName": "Muster^Erika Maria",
        "PatientID": "ID-4711/x",
        "PatientBirthDate": "19640812",
        "StudyDate": "20230115",
        "StudyInstanceUID": "1.2.3.4",
    }
)


def test_pseudonyms_are_stable_within_an_archive_and_unrelated_between_two() -> None:
    assert OURS.of("ID-4711") == OURS.of(" id-4711")
    assert OURS.of("ID-4711") != OURS.of("ID-4712")
    assert OURS.of("ID-4711") != THEIRS.of("ID-4711")
    assert OURS.uid("1.2.3") != THEIRS.uid("1.2.3")
    assert pydicom.uid.UID(OURS.uid("1.2.3")).is_valid
    assert "kkk" not in repr(OURS)


@given(st.dates(date(1950, 1, 1), date(2030, 1, 1)), st.integers(0, 3000), st.text(max_size=5))
def test_the_time_between_two_days_of_a_patient_is_kept(
    first: date, days: int, patient: str
) -> None:
    second = date.fromordinal(first.toordinal() + days)
    moved = [
        date.fromisoformat(OURS.shifted(f"{day:%Y%m%d}", patient=patient))
        for day in (first, second)
    ]
    assert (moved[1] - moved[0]).days == days
    assert 1 <= (first - moved[0]).days <= MAX_SHIFT_DAYS


@pytest.mark.parametrize("bad", ["", "2023", "20231399", "00010101", "yesterday"])
def test_what_is_no_date_is_dropped(bad: str) -> None:
    assert OURS.shifted(bad, patient="p") == ""


@pytest.mark.parametrize(
    "text",
    ["MUSTER_ERIKA/ct", "a muster-erika-maria b", "erikamuster", "id-4711/X", "ID-4711_x",
     "p_1964-08-12", "12.08.1964", "study 20230115", "1.2.3.4"],
)  # fmt: skip
def test_identifiers_are_found_however_they_are_spelled(text: str) -> None:
    cleaned = scrub(text, [MUSTER], OURS).lower()
    assert "anon-" in cleaned
    for part in ("muster", "erika", "4711", "1964", "20230115", "1.2.3.4"):
        assert part not in cleaned


def test_short_names_are_whole_words_and_names_of_one_patient_are_one() -> None:
    lee = Identity({"PatientName": "Lee^Al", "PatientID": "7"})
    assert scrub("sleeve_7", [lee], OURS) == "sleeve_7"
    assert scrub("lee_ct", [lee], OURS) == f"anon-{OURS.of('7')[:8]}_ct"


def test_messages_name_files_by_number() -> None:
    places = [Path("/in/Doe/IM_0001"), Path("/in/Doe/IM_0002")]
    message = "/in/Doe/IM_0002: lies before IM_0001 in /in/Doe"
    assert without_places(message, places, "ct") == (
        "file 2 of ct: lies before file 1 in folder of ct"
    )
    assert without_places("/in/Doe.nii: bad", [Path("/in/Doe.nii")], "a") == "a: bad"


def test_metadata_keeps_pseudonyms_and_moved_dates_only() -> None:
    scan = Scan("s", np.zeros((1, 1, 1, 1)), np.eye(4), ("CT",), "CT",
                {"KVP": 120.0, "BodyPartExamined": "MUSTER"}, ("Muster moved",))  # fmt: skip
    clean = deidentified(scan, MUSTER, OURS)
    assert clean.metadata == {
        "KVP": 120.0,
        "patient": OURS.of("ID-4711/x"),
        "StudyInstanceUID": OURS.uid("1.2.3.4"),
        "StudyDate": OURS.shifted("20230115", patient="ID-4711/x"),
    }
    assert clean.warnings == (f"anon-{OURS.of('ID-4711/x')[:8]} moved",)
    kept = identified(scan, MUSTER, OURS).metadata
    assert kept["PatientName"] == "Muster^Erika Maria"
    assert kept["patient"] == clean.metadata["patient"]


def test_an_identity_is_read_from_the_first_readable_file(tmp_path: Path) -> None:
    _, second, *_ = paths = write_dicom_series(tmp_path, phantom(0, shape_zyx=(3, 4, 5))[0])
    paths[0].write_bytes(b"broken")
    dataset = pydicom.dcmread(second)
    dataset.PatientName, dataset.PatientOrientation = "Muster^Erika", ["L", "P"]
    dataset.save_as(second)
    identity = identity_of(paths, is_dicom=True)
    assert identity is not None
    assert identity.values["PatientName"] == identity.patient == "Muster^Erika"
    assert identity.claims["PatientOrientation"] == "L\\P"
    assert "Muster" not in repr(identity)
    assert identity_of(paths[:1], is_dicom=True) is None
    assert identity_of(paths[:1], is_dicom=False) == Identity()
    with pytest.raises(UnreadableScanError):
        read_identity(paths[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ct_19640812", True), ("Doe^John", True), ("hippocampus_001", False), ("19991", False)],
)
def test_names_that_look_personal_are_told(name: str, *, expected: bool) -> None:
    assert looks_personal(name) == expected
