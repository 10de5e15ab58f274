"""Quarantine: scans that could not become Volumes, and why, kept until they can.

    quarantine/<scan id>.json

One object a scan, put whole: ingests side by side never meet, a scan that fails again says so
again, and one that succeeds leaves the list.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.storage import paths
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.ome_zarr import read_document, to_bytes


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One scan: the `id` its Volume would have, the `reason`, since when (`at`, ISO 8601, UTC)."""

    id: str
    reason: str
    at: str


class Quarantine:
    """The quarantined scans of one Archive."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def add(self, scan_id: str, reason: str) -> None:
        """Keep `reason`; the same reason again changes nothing."""
        path = paths.quarantine_path(scan_id)
        known = self._entry(path)
        if known is None or known.reason != reason:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._store.put(path, to_bytes(asdict(QuarantineEntry(scan_id, reason, now))))

    def remove(self, scan_id: str) -> None:
        """Forget a scan that is a Volume now; nothing happens where it is not listed."""
        self._store.delete(paths.quarantine_path(scan_id))

    def entries(self) -> list[QuarantineEntry]:
        """All that are listed, by id. Raises StoreError that names a damaged one."""
        found = map(self._entry, self._store.list_objects(paths.QUARANTINE))
        return [entry for entry in found if entry is not None]

    def _entry(self, path: str) -> QuarantineEntry | None:
        where = f"{self._store.url}/{path}"
        try:
            content = self._store.get(path)
        except NotFoundError:
            return None
        try:
            return QuarantineEntry(**read_document(content, where))
        except TypeError as error:
            raise StoreError(f"{where} is damaged: {error}; remove it and ingest again") from error
