"""One scan into the Archive: read, check, de-identify, write, publish. Runs on a worker.

Nothing that names a patient leaves this module but in the Identity of the outcome, which the
driver needs to clean its own notes and never prints or stores.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from unet_batch.errors import ConflictError, ScanError, SpecError
from unet_batch.formats.checks import odd_about, odd_claims
from unet_batch.formats.deidentify import (
    Identity,
    Pseudonyms,
    deidentified,
    identified,
    identity_of,
    looks_personal,
    scrub,
    without_places,
)
from unet_batch.formats.discovery import ScanSource, safe_name
from unet_batch.formats.scan import Scan
from unet_batch.planning.volume_info import Json, VolumeInfo
from unet_batch.storage.archive import Archive, check_storable, content_of_any, open_archive
from unet_batch.storage.outside import copy_outside, describe_outside
from unet_batch.storage.pyramid import build_pyramids
from unet_batch.storage.stores import limit_zarr_threads

_PERSONAL_ADDRESS = (
    "the address of its image, which the Archive keeps, seems to hold a date or a name: copy it "
    "(`copy_ome_zarr`), or rename its folders"
)
_PERSONAL_NAME = "its id seems to hold a date or a name, from the file name: see `ids: hashed`"


@dataclass(frozen=True, slots=True)
class IngestRules:
    """What all scans of one ingest share; travels to the workers."""

    archive_url: str
    class_names: Mapping[str, Mapping[int, str]]
    pseudonyms: Pseudonyms
    has_hashed_ids: bool = False
    keeps_identifiers: bool = False
    copies_ome_zarr: bool = False
    builds_pyramids: bool = False

    def volume_id(self, source: ScanSource, identity: Identity | None) -> str:
        """The id: the files' name without what identifies, or a pseudonym of it.

        Without an `identity` (no header could be read) nobody knows what the name holds.
        """
        if self.keeps_identifiers and not self.has_hashed_ids:
            return source.name
        if self.has_hashed_ids or identity is None:
            return f"scan-{self.pseudonyms.of(source.name)}"
        return safe_name(scrub(source.name, [identity], self.pseudonyms))

    def clean(self, text: str, source: ScanSource, name: str, identity: Identity | None) -> str:
        """A message without paths and identifiers."""
        if self.keeps_identifiers:
            return text
        text = without_places(text, source.paths, name)
        text = text.replace(source.url, name) if source.url else text
        text = without_places(text, tuple(source.truth.values()), f"mask of {name}")
        return scrub(text.replace(source.name, name), [identity or Identity()], self.pseudonyms)


@dataclass(frozen=True, slots=True)
class ScanOutcome:
    """What became of one scan: its row, or why there is none; and its timings."""

    name: str
    info: VolumeInfo | None = None
    reason: str = ""
    changed: bool = True
    read_s: float = 0.0
    write_s: float = 0.0
    num_bytes: int = 0
    identity: Identity = field(default_factory=Identity, repr=False)


def ingest_scan(source: ScanSource, rules: IngestRules) -> ScanOutcome:
    """Make a Volume of `source`, with its truth; what cannot be used is a reason, not an error.

    Safe to run twice. Raises StoreError where the Archive itself fails.
    """
    limit_zarr_threads()  # as many scans as CPUs are worked on at once
    identity = identity_of(source.paths, is_dicom=source.kind in ("dicom", "zip"))
    name = rules.volume_id(source, identity)
    known = identity or Identity()
    try:
        outcome = _ingest(replace(source, name=name), rules, known)
    except (ScanError, ConflictError, SpecError) as error:
        reason = rules.clean(str(error), source, name, identity)
        return ScanOutcome(name, reason=reason, identity=known)
    return replace(outcome, identity=known)


def _ingest(source: ScanSource, rules: IngestRules, identity: Identity) -> ScanOutcome:
    started = time.monotonic()
    scan = _read(source, rules)
    masks = source.read_truth(scan, rules.class_names)
    check_storable(scan)
    content = content_of_any(scan)
    odd = [*odd_claims(identity.claims, where=source.name), *odd_about(scan, content.statistics)]
    odd += [text for mask in masks.values() for text in mask.warnings]
    if source.kind != "dicom" and not rules.has_hashed_ids and looks_personal(source.name):
        odd.append(_PERSONAL_NAME)
    if rules.keeps_identifiers:
        scan = identified(scan, identity)
    else:
        scan = deidentified(scan, identity, rules.pseudonyms)
    odd = [rules.clean(text, source, source.name, identity) for text in odd]
    if scan.outside and not rules.keeps_identifiers and looks_personal(scan.outside.url):
        odd.append(_PERSONAL_ADDRESS)
    read = time.monotonic()
    archive = open_archive(rules.archive_url)
    before = _generation(archive, scan.name)
    provenance: dict[str, Json] = {"format": source.kind, "num_files": max(1, len(source.paths))}
    archive.write_scan(scan, source=provenance, warnings=odd, content=content, list_it=False)
    for labels, mask in masks.items():
        texts = [rules.clean(text, source, source.name, identity) for text in mask.warnings]
        truth: dict[str, Json] = {"kind": "truth", "warnings": [*texts]}
        archive[scan.name].write_labels(labels, mask, provenance=truth)
    if rules.builds_pyramids:
        build_pyramids(archive[scan.name])
    return ScanOutcome(
        scan.name,
        info=archive.info(scan.name),
        changed=_generation(archive, scan.name) != before,
        read_s=read - started,
        write_s=time.monotonic() - read,
        num_bytes=scan.voxels_czyx.nbytes,
    )


def _read(source: ScanSource, rules: IngestRules) -> Scan:
    """The Scan; of an OME-Zarr image that is taken in place, without its voxels."""
    if source.image is None:
        return source.read()
    if rules.copies_ome_zarr:
        return copy_outside(source.image, name=source.name)
    return describe_outside(source.image, name=source.name)


def _generation(archive: Archive, volume_id: str) -> tuple[object, ...] | None:
    """What tells whether an ingest changed anything of a Volume; None where there is none.

    The place of its voxels, and the keys of all its Labels by name.
    """
    if volume_id not in archive:
        return None
    volume = archive[volume_id]
    keys = {name: labels.key for name, labels in volume.labels.items()}
    return volume.info.outside, keys
