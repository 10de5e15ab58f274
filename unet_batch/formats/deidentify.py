"""De-identification: who was scanned, and when, stays out of the Archive unless asked for.

The reference is DICOM PS3.15 Annex E: the Basic Profile, with the option Retain Longitudinal
Temporal Information with Modified Dates. Readers keep numbers and codes alone; this module adds
the few attributes that are worth keeping in a changed form, and cleans ids and messages.

| in the file                      | in the Archive                                             |
|----------------------------------|------------------------------------------------------------|
| names, IDs, birth date, texts    | nothing; of PatientID a pseudonym `patient`                |
| study, series, frame UIDs        | `2.25.<128 bits of HMAC-SHA256 under the Archive's key>`   |
| study and series date            | moved back by 1 to 3650 days, the same for all of a patient|
| times of day, sex, age           | nothing                                                    |
| identifiers in file names        | `anon-<pseudonym>`, in the Volume's id and in every message|

Equal identifiers get equal pseudonyms within one Archive, unrelated ones in another. Volume
ids of files without a patient's data (NIfTI, NRRD, ...) keep the file's name, because masks
are matched by it: name files neutrally, or use `ids: hashed`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from unet_batch.errors import UnreadableScanError
from unet_batch.formats.dicom_file import Place, load, translated
from unet_batch.formats.scan import Scan
from unet_batch.planning.volume_info import Json

MAX_SHIFT_DAYS = 3650
MIN_IDENTIFIER = 3
"""Characters; an ID such as `7` names nobody, and would be found in every path."""

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_DATES = ("StudyDate", "SeriesDate")
_NAMES = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "ReferringPhysicianName", "PerformingPhysicianName", "PhysiciansOfRecord", "OperatorsName",
    "NameOfPhysiciansReadingStudy", "RequestingPhysician", "ResponsiblePerson",
)  # fmt: skip
_NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "IssuerOfPatientID",
            "PatientTelephoneNumbers", "MilitaryRank", "MedicalRecordLocator")  # fmt: skip
_DAYS = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_TEXTS = (
    "PatientAddress", "InstitutionName", "InstitutionAddress", "StationName", "DeviceSerialNumber",
    "StudyDescription", "SeriesDescription", "ProtocolName", "PatientComments", "ImageComments",
    "AdditionalPatientHistory", "RequestedProcedureDescription", "PatientSex", "PatientAge",
)  # fmt: skip
_OBJECT_UID = "SOPInstanceUID"
_CLAIMS = ("PatientOrientation", "PatientPosition", "ImageOrientationPatient",
           "AnatomicalOrientationType", "BurnedInAnnotation")  # fmt: skip
_ALL = [*_UIDS, *_NAMES, *_NUMBERS, *_DAYS, *_TEXTS, _OBJECT_UID]
_ISO = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_LOOKS_PERSONAL = re.compile(r"(?<!\d)(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d(?!\d)|\w\^\w|\w, ?\w")


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """What identifiers become in one Archive: keyed digests, which nobody without `key` makes."""

    key: bytes = field(repr=False)

    def of(self, text: str) -> str:
        """16 hex digits; upper and lower case are one."""
        return self._digest("text", text.strip().lower())[:16]

    def uid(self, uid: str) -> str:
        """A UID that stands for `uid` (PS3.5, B.2: a UUID as a UID)."""
        return f"2.25.{int(self._digest('uid', uid)[:32], 16)}"

    def shifted(self, day: str, *, patient: str) -> str:
        """The DICOM date `day` (YYYYMMDD) moved by the patient's days, as ISO; `` for none."""
        found = _ISO.fullmatch(day.strip())
        days = 1 + int(self._digest("days", patient)[:8], 16) % MAX_SHIFT_DAYS
        try:
            moved = date(*map(int, found.groups())) - timedelta(days) if found else None
        except (ValueError, OverflowError):
            return ""
        return moved.isoformat() if moved else ""

    def _digest(self, what: str, text: str) -> str:
        return hmac.new(self.key, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """What a DICOM header says of patient, study and staff: by keyword, as text. Never stored.

    `claims` are what it says of orientation and of text in the pixels, for `checks`.
    """

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    claims: Mapping[str, str] = field(default_factory=dict)

    @property
    def patient(self) -> str:
        """What tells patients apart; `` where the file does not say."""
        return self.values.get("PatientID") or self.values.get("PatientName") or ""

    def texts(self) -> dict[str, str]:
        """Texts that name somebody, or a study, with what each is a name of."""
        found: dict[str, str] = {}
        for keyword in (_OBJECT_UID, *_UIDS, *_NUMBERS, *_NAMES, *_DAYS):
            value = self.values.get(keyword, "")
            is_own = keyword.startswith("Patient") and keyword not in _DAYS
            for text in _spellings(keyword, value):
                found[text] = self.patient if is_own else value
        return {text: of for text, of in found.items() if len(text) >= MIN_IDENTIFIER}


def read_identity(place: Place) -> Identity:
    """The Identity in a DICOM file. Raises UnreadableScanError where it cannot be read."""
    with translated(place):
        dataset = load(place, stop_before_pixels=True, specific_tags=[*_ALL, *_CLAIMS])
        values = {k: text for k in _ALL if (text := _text_of(dataset.get(k)))}
        return Identity(values, {k: text for k in _CLAIMS if (text := _text_of(dataset.get(k)))})


def scrub(text: str, identities: Iterable[Identity], pseudonyms: Pseudonyms) -> str:
    """`text` without what names a patient, a study or staff: `anon-<8 hex digits>` instead."""
    sources = {key: of for one in identities for key, of in one.texts().items()}
    return scrub_texts(text, sources, pseudonyms)


def scrub_texts(text: str, sources: Mapping[str, str], pseudonyms: Pseudonyms) -> str:
    """The same for many texts at once; `sources` as of `Identity.texts`."""
    lower = text.lower()
    present = [found for found in sources if found.lower() in lower]
    for found in sorted(present, key=len, reverse=True):
        # Short ones only as whole words: `Lee` is a name, `sleeve` is not.
        edge = r"(?<![^\W_])", r"(?![^\W_])"
        before, after = edge if len(found) < 5 else ("", "")
        pattern = re.compile(f"{before}{re.escape(found)}{after}", re.IGNORECASE)
        text = pattern.sub(f"anon-{pseudonyms.of(sources[found])[:8]}", text)
    return text


def without_places(text: str, places: Sequence[Place], name: str) -> str:
    """`text` with the files of the scan `name` called by their number, not by their path."""
    for number, place in enumerate(places, start=1):
        own = name if len(places) == 1 else f"file {number} of {name}"
        text = text.replace(str(place), own)
    for folder in sorted({str(place.parent) for place in places}, key=len, reverse=True):
        text = text.replace(folder, f"folder of {name}") if len(folder) > 1 else text
    for number, place in enumerate(places, start=1):
        if len(place.name) > MIN_IDENTIFIER and place.name != name:
            text = text.replace(place.name, f"file {number}")
    return text


def deidentified(scan: Scan, identity: Identity, pseudonyms: Pseudonyms) -> Scan:
    """`scan` with pseudonyms, hashed UIDs and moved dates in its metadata, and nothing personal."""
    clean: dict[str, Json] = {
        key: value
        for key, value in scan.metadata.items()
        if not isinstance(value, str) or scrub(value, [identity], pseudonyms) == value
    }
    warnings = tuple(scrub(text, [identity], pseudonyms) for text in scan.warnings)
    return replace(scan, metadata=clean | _changed(identity, pseudonyms), warnings=warnings)


def identified(scan: Scan, identity: Identity, pseudonyms: Pseudonyms) -> Scan:
    """`scan` with all of `identity` in its metadata: for those who asked to keep it.

    The patient's pseudonym as well, which is what tells patients apart elsewhere.
    """
    own: dict[str, Json] = {**scan.metadata, **identity.values}
    return replace(scan, metadata=own | _patient_of(identity, pseudonyms))


def looks_personal(name: str) -> bool:
    """Whether a file name seems to hold a date or a person's name: worth a warning."""
    return bool(_LOOKS_PERSONAL.search(name))


def identity_of(places: Sequence[Place], *, is_dicom: bool) -> Identity | None:
    """The Identity of a scan's files; None where a DICOM series has no header to be read."""
    if not is_dicom:
        return Identity()
    for place in places:
        try:
            return read_identity(place)
        except UnreadableScanError:
            continue
    return None


def _changed(identity: Identity, pseudonyms: Pseudonyms) -> dict[str, Json]:
    patient, changed = identity.patient, _patient_of(identity, pseudonyms)
    changed |= {k: pseudonyms.uid(uid) for k in _UIDS if (uid := identity.values.get(k))}
    days = {k: pseudonyms.shifted(identity.values.get(k, ""), patient=patient) for k in _DATES}
    return {**changed, **{k: day for k, day in days.items() if day}}


def _patient_of(identity: Identity, pseudonyms: Pseudonyms) -> dict[str, Json]:
    return {"patient": pseudonyms.of(identity.patient)} if identity.patient else {}


def _text_of(value: Any) -> str:
    """A DICOM value as one text; several values are joined as in the file."""
    if value is None:
        return ""
    values = value if isinstance(value, list | tuple) or _is_multiple(value) else [value]
    return "\\".join(str(one) for one in values).strip()


def _is_multiple(value: Any) -> bool:
    return not isinstance(value, str | bytes) and type(value).__name__ == "MultiValue"


def _spellings(keyword: str, value: str) -> list[str]:
    """How an identifier may be written in a path: whole, in parts, with other separators."""
    if keyword in _DAYS:
        found = _ISO.fullmatch(value)
        y, m, d = found.groups() if found else ("", "", "")
        return [y + m + d, f"{y}-{m}-{d}", f"{y}_{m}_{d}", f"{d}.{m}.{y}"] if found else []
    if keyword in _NAMES:
        parts = [part for part in re.split(r"[\^=\\,\s_]+", value) if part]
        joined = [sep.join(parts) for sep in ("_", " ", "-", "", "^", ", ")]
        return [*parts, *joined]
    spelled = [one for one in value.split("\\") if one]
    return [*spelled, *(re.sub(r"[^A-Za-z0-9._-]+", "_", one) for one in spelled)]
