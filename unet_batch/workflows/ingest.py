"""Ingest: scans of any supported format become Volumes of an Archive, with their truth.

Each scan is one piece of Dask work on Ray: read, check, write, publish. One that fails is
quarantined with its reason and the others go on. Everything is idempotent: a second ingest
of the same files finds the same content and changes nothing.

No path, name or free text of a file reaches the Archive but the Volume's id, which is made
of folder and file names, less what a DICOM header says of the patient (`formats.deidentify`),
and the address of an OME-Zarr image that is taken in place.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

import dask
from dask.delayed import Delayed

from unet_batch.errors import StoreError
from unet_batch.formats.deidentify import scrub_texts
from unet_batch.formats.discovery import Discovery, ScanSource, discover
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.readers import ReadOptions
from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    Listener,
    StageTimed,
    VolumeFinished,
    ignore,
)
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.planning.volume_info import VolumeInfo
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.bucket_tree import locator
from unet_batch.storage.staging import sweep
from unet_batch.workflows.dask_window import (
    Finished,
    compute_in_window,
    default_window,
    require_ray,
)
from unet_batch.workflows.ingest_scan import IngestRules, ScanOutcome, ingest_scan

_CATALOG_BATCH = 200


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """How an ingest ended, by Volume id: every scan found is done, skipped or quarantined.

    `skipped` were there already with the same content; `quarantined` and `warnings` say why;
    `notes` tell what was left out of the sources.
    """

    archive: str
    done: tuple[str, ...]
    skipped: tuple[str, ...]
    quarantined: Mapping[str, str]
    warnings: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    num_voxels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Tally:
    """The driver's running account; `unlisted` and `found_again` wait for the Catalog."""

    done: list[VolumeInfo] = field(default_factory=list)
    skipped: list[VolumeInfo] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    unlisted: list[VolumeInfo] = field(default_factory=list)
    found_again: list[VolumeInfo] = field(default_factory=list)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict, repr=False)


def ingest(spec: IngestSpec, *, listen: Listener = ignore) -> IngestSummary:
    """Make Volumes of all scans that `spec` names, and Labels of their truth masks.

    Raises
    ------
    SpecError: sources, truth or channels that fit nothing; two scans of one name.
    StoreError: the Archive cannot be read or written.
    ReplicaError: Ray is not running.
    """
    require_ray()
    started = time.monotonic()
    found = _discover(spec)
    archive = open_archive(spec.archive, create=True)
    listen(JobStarted("ingest", "ingest", "", len(found.scans), dataset=archive.name))
    tally = _Tally()
    rules = _rules(spec, archive)
    window = spec.window or default_window()
    known = {entry.id for entry in archive.quarantine.entries()}
    work = ((scan, _delayed(scan, rules)) for scan in found.scans)
    try:
        for finished in compute_in_window(work, window=window, timeout_s=spec.timeout_s):
            outcome = _outcome_of(finished, rules)
            _account(outcome, tally, listen)
            if found.notes:
                tally.identifiers.update(outcome.identity.texts())
            _keep_account(archive, outcome, known)
            if len(tally.unlisted) + len(tally.found_again) >= _CATALOG_BATCH:
                _list(archive, tally)
    finally:
        sweep()
        _list(archive, tally)
    if tally.done:
        archive.catalog.compact()
    listen(JobFinished("ingest", time.monotonic() - started))
    notes = _clean_notes(found.notes, tally, rules)
    return _summary(archive, tally, notes, time.monotonic() - started)


def _discover(spec: IngestSpec) -> Discovery:
    return discover(
        spec.sources,
        truth=spec.truth,
        channels=spec.channels,
        exclude=spec.exclude,
        options=_read_options(spec),
        locate=locator(),
    )


def _rules(spec: IngestSpec, archive: Archive) -> IngestRules:
    return IngestRules(
        archive.url,
        spec.class_names,
        archive.pseudonyms(),
        has_hashed_ids=spec.ids == "hashed",
        keeps_identifiers=spec.keep_identifiers,
        copies_ome_zarr=spec.copy_ome_zarr,
        takes_embedded_labels=spec.embedded_labels,
        builds_pyramids=spec.pyramids,
        max_staged_bytes=spec.staging,
    )


def _clean_notes(notes: tuple[str, ...], tally: _Tally, rules: IngestRules) -> tuple[str, ...]:
    if rules.keeps_identifiers or not notes:
        return notes
    return tuple(scrub_texts(note, tally.identifiers, rules.pseudonyms) for note in notes)


def _read_options(spec: IngestSpec) -> ReadOptions:
    named = {*spec.mask_values, *spec.segments}
    return ReadOptions(
        spacing_mm=spec.spacing_mm,
        resample_tilt=spec.resample_tilt,
        stack_pictures=spec.stack_pictures,
        masks={
            labels: MaskRules(
                values=spec.mask_values.get(labels, {}),
                strays=spec.stray_mask_values,
                segments=spec.segments.get(labels, {}),
            )
            for labels in named
        },
    )


def _delayed(source: ScanSource, rules: IngestRules) -> Delayed:
    key = f"ingest-{uuid4().hex}"  # without a name: Ray logs it
    task = dask.delayed(ingest_scan, pure=False, traverse=False)
    delayed: Delayed = task(source, rules, dask_key_name=key)
    return delayed


def _outcome_of(finished: Finished[ScanSource], rules: IngestRules) -> ScanOutcome:
    """What the worker returned. A failing Archive ends the job; all else is this scan's own."""
    if isinstance(finished.value, ScanOutcome):
        return finished.value
    cause = getattr(finished.error, "cause", None) or finished.error
    if isinstance(cause, StoreError):
        raise cause
    source = finished.key
    name = rules.volume_id(source, None)
    reason = rules.clean(f"{type(cause).__name__}: {cause}", source, name, None)
    return ScanOutcome(name, reason=reason)


def _account(outcome: ScanOutcome, tally: _Tally, listen: Listener) -> None:
    if outcome.info is None:
        tally.quarantined[outcome.name] = outcome.reason
        listen(VolumeFinished(outcome.name, "quarantined", outcome.reason))
        return
    voxels, seconds = outcome.info.num_voxels, outcome.read_s + outcome.write_s
    listen(StageTimed("read", outcome.read_s, outcome.num_bytes, voxels))
    listen(StageTimed("write", outcome.write_s, outcome.num_bytes, voxels))
    if outcome.changed:
        tally.done.append(outcome.info)
        tally.unlisted.append(outcome.info)
        listen(VolumeFinished(outcome.name, "done", "", seconds, voxels))
    else:
        tally.skipped.append(outcome.info)
        tally.found_again.append(outcome.info)
        listen(VolumeFinished(outcome.name, "skipped", "already there", seconds, voxels))


def _keep_account(archive: Archive, outcome: ScanOutcome, known: set[str]) -> None:
    """Keep the Quarantine true: it lists the scan if, and only if, it failed this time."""
    if outcome.info is None:
        archive.quarantine.add(outcome.name, outcome.reason)
    elif outcome.name in known:
        archive.quarantine.remove(outcome.name)


def _list(archive: Archive, tally: _Tally) -> None:
    """List new Volumes, and those that an ingest published but died before it listed them."""
    lost = archive.catalog.unlisted(info.id for info in tally.found_again)
    rows = {info.id: info for info in tally.found_again if info.id in lost}
    rows |= {info.id: info for info in tally.unlisted}
    rows |= {info.id: info for info in archive.catalog.with_duplicates_noted(list(rows.values()))}
    archive.catalog.append(list(rows.values()))
    tally.warnings.update({info.id: info.warnings for info in rows.values() if info.warnings})
    tally.unlisted.clear()
    tally.found_again.clear()


def _summary(
    archive: Archive, tally: _Tally, notes: tuple[str, ...], seconds: float
) -> IngestSummary:
    return IngestSummary(
        archive=archive.url,
        done=tuple(sorted(info.id for info in tally.done)),
        skipped=tuple(sorted(info.id for info in tally.skipped)),
        quarantined=dict(sorted(tally.quarantined.items())),
        warnings=dict(sorted(tally.warnings.items())),
        notes=notes,
        num_voxels=sum(info.num_voxels for info in tally.done),
        seconds=seconds,
    )
