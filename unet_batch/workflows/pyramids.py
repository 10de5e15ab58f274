"""Pyramids of what an Archive holds already: one piece of Dask work on Ray for each Volume."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import dask

from unet_batch.errors import reason_of
from unet_batch.monitoring.events import (
    JobFinished,
    JobStarted,
    Listener,
    VolumeFinished,
    ignore,
)
from unet_batch.storage.archive import open_archive
from unet_batch.storage.pyramid import build_pyramids
from unet_batch.storage.stores import limit_zarr_threads
from unet_batch.workflows.dask_window import compute_in_window, default_window, require_ray


@dataclass(frozen=True, slots=True)
class PyramidSummary:
    """Volumes whose image and Labels have their levels now, and the reasons of the others."""

    archive: str
    done: tuple[str, ...]
    failed: Mapping[str, str]
    seconds: float


def build(
    archive_url: str,
    volumes: Sequence[str] = ("*",),
    where: str | None = None,
    *,
    listen: Listener = ignore,
) -> PyramidSummary:
    """Add coarser levels to images and Labels of the chosen Volumes.

    Raises SpecError, NotFoundError or StoreError where the Archive or the choice cannot be
    read, ReplicaError where Ray is not running.
    """
    require_ray()
    started = time.monotonic()
    archive = open_archive(archive_url)
    archive.check_patterns(volumes)
    ids = archive.catalog.ids(volumes, where)
    listen(JobStarted("pyramids", "pyramids", "", num_volumes=len(ids)))
    work = (
        (one, dask.delayed(partial(_build_one, archive.url, one), pure=False, traverse=False)())
        for one in ids
    )
    done: list[str] = []
    failed: dict[str, str] = {}
    for finished in compute_in_window(work, window=default_window()):
        if finished.error is None:
            done.append(finished.key)
            listen(VolumeFinished(finished.key, "done"))
        else:
            failed[finished.key] = reason_of(finished.error)
            listen(VolumeFinished(finished.key, "quarantined", failed[finished.key]))
    seconds = time.monotonic() - started
    listen(JobFinished("pyramids", seconds))
    return PyramidSummary(archive.url, tuple(sorted(done)), dict(sorted(failed.items())), seconds)


def _build_one(archive_url: str, volume_id: str) -> None:
    limit_zarr_threads()
    build_pyramids(open_archive(archive_url)[volume_id])
