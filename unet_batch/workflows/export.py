"""Export: Labels, or the scans themselves, as files of other tools on the scans' own grids.

With Labels comes `volumes.csv`: voxels and millilitres of every class in every Volume. Export
runs where it is called, not on Ray's workers: the files belong on this machine's disk.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import NotFoundError, SpecError, UnetBatchError, UnreadableScanError
from unet_batch.formats.dicom_file import is_dicom
from unet_batch.formats.dicom_seg_writer import write_dicom_seg
from unet_batch.formats.itk import write_nrrd
from unet_batch.formats.nifti import write_nifti
from unet_batch.formats.scan import Mask
from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    Listener,
    VolumeFinished,
    ignore,
)
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.volume import Volume

TABLE_NAME = "volumes.csv"
_SUFFIXES = {"nifti": ".nii.gz", "nrrd": ".nrrd", "dicom-seg": ".seg.dcm"}


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """How an export ended, by Volume id.

    `missing` have no such Labels; `failed` could not be read or written, and why.
    """

    out: str
    done: tuple[str, ...]
    missing: tuple[str, ...]
    failed: Mapping[str, str]
    num_voxels: int
    seconds: float


def export(spec: ExportSpec, *, listen: Listener = ignore) -> ExportSummary:
    """Write `<out>/<Volume id>.<suffix>` for every selected Volume; existing files are replaced.

    Raises
    ------
    SpecError: a pattern that names no Volume, or `dicom_series` that is no pattern of folders.
    StoreError: no Archive there, or `out` cannot be made.
    """
    started = time.monotonic()
    archive = open_archive(spec.archive)
    rows = archive.select(spec.volumes, spec.where)
    out = _folder(spec.out)
    listen(JobStarted("export", "export", "", len(rows), dataset=archive.name))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = partial(_export_one, archive, out, spec)
        events: list[VolumeFinished] = []
        table: list[_TableRow] = []
        for event, counted in pool.map(work, [row.id for row in rows]):
            listen(event)
            events.append(event)
            table += counted
    if spec.labels is not None:
        _write_table(out / TABLE_NAME, table)
    seconds = time.monotonic() - started
    listen(JobFinished("export", seconds))
    return _summary(out, events, seconds)


def _folder(out: str) -> Path:
    folder = Path(out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class _TableRow:
    """One line of the table: a class of one Volume."""

    volume: str
    value: int
    name: str
    voxels: int
    ml: float


def _export_one(
    archive: Archive, out: Path, spec: ExportSpec, volume_id: str
) -> tuple[VolumeFinished, list[_TableRow]]:
    started = time.monotonic()
    try:
        volume = archive[volume_id]
        if spec.labels is not None and spec.labels not in volume.labels:
            has = ", ".join(volume.labels) or "none"
            reason = f"no Labels {spec.labels!r}; it has {has}"
            return VolumeFinished(volume_id, "skipped", reason), []
        voxels = _voxels(volume, spec.labels)
        _write(out, spec, volume, voxels)
        if spec.labels is not None and spec.probabilities:
            _write_probabilities(out, volume, spec.labels)
        classes = volume.labels[spec.labels].classes if spec.labels is not None else ()
    except (UnetBatchError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        return VolumeFinished(volume_id, "quarantined", reason), []
    seconds = time.monotonic() - started
    done = VolumeFinished(volume_id, "done", "", seconds, volume.info.num_voxels)
    return done, _count(volume, voxels, classes)


def _write(out: Path, spec: ExportSpec, volume: Volume, voxels: NDArray[Any]) -> None:
    path = out / f"{volume.id}{_SUFFIXES[spec.format]}"
    if spec.format == "nrrd":
        write_nrrd(path, voxels, volume.affine)
    elif spec.format == "dicom-seg" and spec.labels is not None:
        mask = Mask(voxels, volume.affine, volume.labels[spec.labels].classes)
        series = _series_of(volume.id, spec.dicom_series)
        write_dicom_seg(path, mask, name=volume.id, kind=spec.seg_type, series=series)
    else:
        write_nifti(path, voxels, volume.affine, metadata=volume.metadata)


def _write_probabilities(out: Path, volume: Volume, labels: str) -> None:
    """The probabilities that came with Labels, one class after another along the 4th axis."""
    lazy: Any = volume.labels[labels].probabilities
    if lazy is None:
        raise NotFoundError(
            f"Labels {labels!r} of {volume.id} came without probabilities; segment with"
            " inference.probabilities=true"
        )
    voxels = lazy.compute(scheduler="synchronous")
    path = out / f"{volume.id}.probabilities.nii.gz"
    write_nifti(path, voxels, volume.affine, metadata=volume.metadata)


def _series_of(volume_id: str, pattern: str | None) -> tuple[Path, ...]:
    """The files of the series that the Volume was made of; none without a pattern."""
    if pattern is None:
        return ()
    try:
        folder = Path(pattern.format(name=volume_id)).expanduser()
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise SpecError(f"dicom_series {pattern!r}: known is {{name}}") from error
    files = sorted(path for path in folder.glob("*") if path.is_file() and is_dicom(path))
    if not files:
        raise UnreadableScanError(f"{folder}: no DICOM file for a SEG of {volume_id} to refer to")
    return tuple(files)


def _count(
    volume: Volume, voxels_zyx: NDArray[Any], classes: Sequence[LabelClass]
) -> list[_TableRow]:
    """Voxels and millilitres of each class but the background."""
    ml_per_voxel = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    counts = np.zeros(65536, np.int64)
    for slice_yx in voxels_zyx if classes else ():  # bincount takes 8 bytes a voxel
        counts += np.bincount(slice_yx.ravel(), minlength=len(counts))
    return [
        _TableRow(volume.id, c.value, c.name, int(counts[c.value]), counts[c.value] * ml_per_voxel)
        for c in classes
        if c.value
    ]


def _write_table(path: Path, rows: Sequence[_TableRow]) -> None:
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("volume", "value", "class", "voxels", "ml"))
        for row in rows:
            table.writerow((row.volume, row.value, row.name, row.voxels, f"{row.ml:.6g}"))
    unfinished.replace(path)


def _voxels(volume: Volume, labels: str | None) -> NDArray[np.generic]:
    lazy: Any = volume.image if labels is None else volume.labels[labels].array
    voxels: NDArray[np.generic] = lazy.compute(scheduler="synchronous")
    return voxels


def _summary(out: Path, events: list[VolumeFinished], seconds: float) -> ExportSummary:
    return ExportSummary(
        out=str(out),
        done=tuple(e.volume_id for e in events if e.outcome == "done"),
        missing=tuple(e.volume_id for e in events if e.outcome == "skipped"),
        failed={e.volume_id: e.reason for e in events if e.outcome == "quarantined"},
        num_voxels=sum(e.num_voxels for e in events),
        seconds=seconds,
    )
