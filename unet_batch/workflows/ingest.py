"""Ingest: scans of any supported format become Volumes of an Archive, with their truth.

Each scan is one piece of Dask work on Ray: read, check, write, publish. One that fails is
quarantined with its reason and the others go on. Everything is idempotent: a second ingest
of the same files finds the same content and changes nothing.

No path, name or free text of a file reaches the Archive but the Volume's id, which is made
of folder and file names: name files so that they tell nothing about the patient.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

import dask
from dask.delayed import Delayed

from unet_batch.errors import ConflictError, ScanError, SpecError, StoreError
from unet_batch.formats.checks import odd_about
from unet_batch.formats.discovery import ScanSource, discover
from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    Listener,
    StageTimed,
    VolumeFinished,
    ignore,
)
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.planning.volume_info import Json, VolumeInfo
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.dask_window import (
    Finished,
    compute_in_window,
    default_window,
    require_ray,
)

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
class _Outcome:
    """What a worker reports of one scan: its row, or why there is none; and its timings."""

    info: VolumeInfo | None = None
    reason: str = ""
    changed: bool = True
    read_s: float = 0.0
    write_s: float = 0.0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Tally:
    """The driver's running account; `unlisted` rows still wait for the Catalog."""

    done: list[VolumeInfo] = field(default_factory=list)
    skipped: list[VolumeInfo] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    unlisted: list[VolumeInfo] = field(default_factory=list)


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
    found = discover(spec.sources, truth=spec.truth, channels=spec.channels, exclude=spec.exclude)
    archive = open_archive(spec.archive, create=True)
    listen(JobStarted("ingest", "ingest", "", num_volumes=len(found.scans)))
    tally = _Tally()
    work = ((scan, _delayed(scan, archive.url, spec.class_names)) for scan in found.scans)
    try:
        for finished in compute_in_window(work, window=spec.window or default_window()):
            _account(_outcome_of(finished), finished.key.name, tally, listen)
            if len(tally.unlisted) >= _CATALOG_BATCH:
                _list(archive, tally)
    finally:
        _list(archive, tally)
    if tally.done:
        archive.catalog.compact()
    listen(JobFinished("ingest", time.monotonic() - started))
    return _summary(archive, tally, found.notes, time.monotonic() - started)


def _delayed(
    source: ScanSource, archive_url: str, class_names: Mapping[str, Mapping[int, str]]
) -> Delayed:
    key = f"ingest-{source.name}-{uuid4().hex}"
    task = dask.delayed(_ingest_one, pure=False, traverse=False)
    delayed: Delayed = task(source, archive_url, class_names, dask_key_name=key)
    return delayed


def _ingest_one(
    source: ScanSource, archive_url: str, class_names: Mapping[str, Mapping[int, str]]
) -> _Outcome:
    """Read, check, write and publish one scan. Runs on a worker; safe to run twice."""
    started = time.monotonic()
    try:
        scan = source.read()
        masks = source.read_truth(scan, class_names)
        read = time.monotonic()
        archive = open_archive(archive_url)
        before = _generation(archive, scan.name)
        provenance: dict[str, Json] = {"format": source.kind, "num_files": len(source.paths)}
        archive.write_scan(scan, source=provenance, warnings=odd_about(scan))
        for name, mask in masks.items():
            archive[scan.name].write_labels(name, mask, provenance={"kind": "truth"})
    except (ScanError, ConflictError, SpecError) as error:
        return _Outcome(reason=str(error))
    return _Outcome(
        info=archive.info(scan.name),
        changed=_generation(archive, scan.name) != before,
        read_s=read - started,
        write_s=time.monotonic() - read,
        num_bytes=scan.voxels_czyx.nbytes,
    )


def _generation(archive: Archive, volume_id: str) -> dict[str, str] | None:
    """The keys of all Labels of a Volume, by name; None where there is no such Volume."""
    if volume_id not in archive:
        return None
    return {name: labels.key for name, labels in archive[volume_id].labels.items()}


def _outcome_of(finished: Finished[ScanSource]) -> _Outcome:
    """What the worker returned. A failing Archive ends the job; all else is this scan's own."""
    if isinstance(finished.value, _Outcome):
        return finished.value
    cause = getattr(finished.error, "cause", None) or finished.error
    if isinstance(cause, StoreError):
        raise cause
    return _Outcome(reason=f"{type(cause).__name__}: {cause}")


def _account(outcome: _Outcome, name: str, tally: _Tally, listen: Listener) -> None:
    if outcome.info is None:
        tally.quarantined[name] = outcome.reason
        listen(VolumeFinished(name, "quarantined", outcome.reason))
        return
    voxels, seconds = outcome.info.num_voxels, outcome.read_s + outcome.write_s
    listen(StageTimed("read", outcome.read_s, outcome.num_bytes, voxels))
    listen(StageTimed("write", outcome.write_s, outcome.num_bytes, voxels))
    if outcome.changed:
        tally.done.append(outcome.info)
        tally.unlisted.append(outcome.info)
        listen(VolumeFinished(name, "done", "", seconds, voxels))
    else:
        tally.skipped.append(outcome.info)
        listen(VolumeFinished(name, "skipped", "already there", seconds, voxels))


def _list(archive: Archive, tally: _Tally) -> None:
    archive.catalog.append(tally.unlisted)
    tally.unlisted.clear()


def _summary(
    archive: Archive, tally: _Tally, notes: tuple[str, ...], seconds: float
) -> IngestSummary:
    return IngestSummary(
        archive=archive.url,
        done=tuple(sorted(info.id for info in tally.done)),
        skipped=tuple(sorted(info.id for info in tally.skipped)),
        quarantined=dict(sorted(tally.quarantined.items())),
        warnings={info.id: info.warnings for info in tally.done if info.warnings},
        notes=notes,
        num_voxels=sum(info.num_voxels for info in tally.done),
        seconds=seconds,
    )
