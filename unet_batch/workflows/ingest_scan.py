"""One scan into the Archive: read, check, de-identify, write, publish. Runs on a worker.

Nothing that names a patient leaves this module but in the Identity of the outcome, which the
driver needs to clean its own notes and never prints or stores.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
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
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.ngff_labels import EmbeddedMasks
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import Json, VolumeInfo
from unet_batch.storage.archive import Archive, check_storable, content_of_any, open_archive
from unet_batch.storage.outside import copy_outside, describe_outside, masks_outside
from unet_batch.storage.pyramid import build_pyramids
from unet_batch.storage.staging import Staged, staged
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
    takes_embedded_labels: bool = True
    builds_pyramids: bool = False
    max_staged_bytes: int = 2**32

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
        text = without_places(text, tuple(source.truth.values()), f"mask of {name}")
        # As a whole word: `ct` is a fine name of a scan, and a part of `objects`.
        own = re.compile(rf"(?<![^\W_]){re.escape(source.name)}(?![^\W_])")
        text = own.sub(lambda _: name, text)
        return scrub(text, [identity or Identity()], self.pseudonyms)


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


@dataclass(frozen=True, slots=True)
class _Found:
    """A scan that was read, with its masks: the truth, and those that came with its image.

    `odd` are warnings, as the readers gave them.
    """

    scan: Scan
    truth: Mapping[str, Mask]
    embedded: Mapping[str, Mask]
    odd: tuple[str, ...]

    def masks(self) -> Iterator[tuple[str, str, Mask]]:
        """Each mask with where it came from, and the name of its Labels."""
        yield from (("truth", name, mask) for name, mask in self.truth.items())
        yield from (("embedded", name, mask) for name, mask in self.embedded.items())


def ingest_scan(source: ScanSource, rules: IngestRules) -> ScanOutcome:
    """Make a Volume of `source`, with its truth; what cannot be used is a reason, not an error.

    Safe to run twice. Raises StoreError where the Archive itself fails.
    """
    limit_zarr_threads()  # as many scans as CPUs are worked on at once
    started = time.monotonic()
    identity: Identity | None = None
    stage = Staged(source)
    try:
        with staged(source, max_bytes=rules.max_staged_bytes) as stage:
            identity = _identity_of(stage.source)
            name = rules.volume_id(source, identity)
            found = _read(replace(stage.source, name=name), rules)
        outcome = _write(found, stage, source, rules, identity or Identity(), started)
    except (ScanError, ConflictError, SpecError) as error:
        identity = identity or _identity_of(source)
        name = rules.volume_id(source, identity)
        reason = rules.clean(stage.told(str(error)), source, name, identity)
        outcome = ScanOutcome(name, reason=reason)
    return replace(outcome, identity=identity or Identity())


def _identity_of(source: ScanSource) -> Identity | None:
    return identity_of(source.paths, is_dicom=source.kind in ("dicom", "zip"))


def _read(source: ScanSource, rules: IngestRules) -> _Found:
    """The scan and its masks. Of an OME-Zarr image taken in place the voxels are not read."""
    scan = _scan_of(source, rules)
    truth = source.read_truth(scan, rules.class_names)
    embedded = EmbeddedMasks()
    if source.image is not None and rules.takes_embedded_labels:
        named = {k: MaskRules(class_names=names) for k, names in rules.class_names.items()}
        mask_rules = {**named, **source.options.masks}
        embedded = masks_outside(source.image, scan, mask_rules)
    check_storable(scan)
    own = {name: mask for name, mask in embedded.masks.items() if name not in truth}
    texts = [text for mask in (*truth.values(), *own.values()) for text in mask.warnings]
    return _Found(scan, truth, own, (*texts, *embedded.warnings))


def _scan_of(source: ScanSource, rules: IngestRules) -> Scan:
    if source.image is None:
        return source.read()
    if rules.copies_ome_zarr:
        return copy_outside(source.image, name=source.name)
    return describe_outside(source.image, name=source.name)


def _write(
    found: _Found,
    stage: Staged,
    source: ScanSource,
    rules: IngestRules,
    identity: Identity,
    started: float,
) -> ScanOutcome:
    """Check, de-identify and publish what was found."""
    scan = found.scan

    def clean(texts: Iterable[str]) -> list[str]:
        return [rules.clean(stage.told(text), source, scan.name, identity) for text in texts]

    content = content_of_any(scan)
    odd = [*odd_claims(identity.claims, where=scan.name), *odd_about(scan, content.statistics)]
    odd = clean([*odd, *found.odd, *_odd_name(source, scan, rules)])
    if rules.keeps_identifiers:
        scan = identified(scan, identity, rules.pseudonyms)
    else:
        scan = deidentified(scan, identity, rules.pseudonyms)
    if scan.outside and not rules.keeps_identifiers and looks_personal(scan.outside.url):
        odd.append(_PERSONAL_ADDRESS)
    read = time.monotonic()
    archive = open_archive(rules.archive_url)
    before = _generation(archive, scan.name)
    provenance: dict[str, Json] = {"format": source.kind, "num_files": max(1, len(source.paths))}
    archive.write_scan(scan, source=provenance, warnings=odd, content=content, list_it=False)
    for kind, labels, mask in found.masks():
        made: dict[str, Json] = {"kind": kind, "warnings": [*clean(mask.warnings)]}
        archive[scan.name].write_labels(labels, mask, provenance=made)
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


def _odd_name(source: ScanSource, scan: Scan, rules: IngestRules) -> Iterator[str]:
    if source.kind != "dicom" and not rules.has_hashed_ids and looks_personal(scan.name):
        yield _PERSONAL_NAME


def _generation(archive: Archive, volume_id: str) -> tuple[object, ...] | None:
    """What tells whether an ingest changed anything of a Volume; None where there is none.

    The place of its voxels, and the keys of all its Labels by name.
    """
    if volume_id not in archive:
        return None
    volume = archive[volume_id]
    keys = {name: labels.key for name, labels in volume.labels.items()}
    return volume.info.outside, keys
