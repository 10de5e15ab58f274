"""The small Job that is hurt, how it ends when it is not, and the table of what happened."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage import paths
from unet_batch.storage.archive import Archive
from unet_batch.storage.stores import open_store
from unet_batch.workflows.segment import SegmentSummary

ROWS: list[tuple[str, str, str, float]] = []
"""Of the chaos table: fault, what happened, what was lost, seconds lost."""


def tell(fault: str, happened: str, lost: str, seconds: float = 0.0) -> None:
    """Add a row to the table that is printed at the end."""
    ROWS.append((fault, happened, lost, seconds))


def copy_archive(url: str, to: str) -> None:
    """Every object of one store into another."""
    store, other = open_store(url), open_store(to)
    for path in store.list_objects(""):
        other.put(path, store.get(path))


def digests(archive: Archive, labels: str = "net") -> dict[str, str]:
    """A digest of the names and bytes of each Volume's Labels; none for a Volume without."""
    store, found = open_store(archive.url), {}
    for info in archive.select(("*",)):
        content = hashlib.sha256()
        objects = store.list_objects(paths.labels_path(info.id, labels))
        for path in objects:
            content.update(path.encode() + b"\0" + store.get(path))
        if objects:
            found[info.id] = content.hexdigest()
    return found


@dataclass
class Undisturbed:
    """The Job as it ends when nothing happens: its Spec, Labels, seconds and summary."""

    spec: SegmentSpec
    expected: dict[str, str]
    seconds: float
    summary: SegmentSummary
    clean: Path


@contextmanager
def measured(undisturbed: Undisturbed) -> Iterator[Callable[[], float]]:
    """Seconds that were lost against the undisturbed run."""
    started = time.monotonic()
    yield lambda: max(0.0, time.monotonic() - started - undisturbed.seconds)
