"""Export: Labels, or the scans themselves, as NIfTI files on the scans' own grids.

It runs where it is called, not on Ray's workers: the files belong on this machine's disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import UnetBatchError
from unet_batch.formats.nifti import write_nifti
from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    Listener,
    VolumeFinished,
    ignore,
)
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.volume import Volume


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
    """Write `<out>/<Volume id>.nii.gz` for every selected Volume; existing files are replaced.

    Raises
    ------
    SpecError: a pattern that names no Volume.
    StoreError: no Archive there, or `out` cannot be made.
    """
    started = time.monotonic()
    archive = open_archive(spec.archive)
    rows = archive.select(spec.volumes)
    out = _folder(spec.out)
    listen(JobStarted("export", "export", "", num_volumes=len(rows)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = partial(_export_one, archive, out, spec.labels)
        events = []
        for event in pool.map(work, [row.id for row in rows]):
            listen(event)
            events.append(event)
    seconds = time.monotonic() - started
    listen(JobFinished("export", seconds))
    return _summary(out, events, seconds)


def _folder(out: str) -> Path:
    folder = Path(out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _export_one(archive: Archive, out: Path, labels: str | None, volume_id: str) -> VolumeFinished:
    started = time.monotonic()
    try:
        volume = archive[volume_id]
        if labels is not None and labels not in volume.labels:
            has = ", ".join(volume.labels) or "none"
            return VolumeFinished(volume_id, "skipped", f"no Labels {labels!r}; it has {has}")
        voxels = _voxels(volume, labels)
        write_nifti(out / f"{volume_id}.nii.gz", voxels, volume.affine, metadata=volume.metadata)
    except (UnetBatchError, OSError) as error:
        return VolumeFinished(volume_id, "quarantined", f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - started
    return VolumeFinished(volume_id, "done", "", seconds, volume.info.num_voxels)


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
