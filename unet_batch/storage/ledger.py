"""Ledger: the durable record of what became of every Volume of a Job, the source for resuming.

    jobs/<job id>/spec.json
    jobs/<job id>/ledger/00000001.jsonl, 00000002.jsonl, ...

Entries gather in memory and go out as numbered parts, each put whole where none was: two
drivers of one Job never overwrite each other, and the numbers, not the clock, say what is
later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self

from unet_batch.errors import ConflictError, NotFoundError, StoreError
from unet_batch.planning.volume_info import Json
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.object_store import ObjectStore

FLUSH_ENTRIES = 50
FLUSH_SECONDS = 5.0
"""What a crash can cost: the entries of this time; their Volumes are found published."""

Outcome = Literal["done", "skipped", "quarantined", "cancelled"]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What became of one Volume.

    `key` is the generation of its Labels, `replica` who worked on it, `finished_at` an ISO
    8601 time in UTC, `reason` a sentence for a person where the outcome is not `done`.
    """

    volume_id: str
    outcome: Outcome
    reason: str = ""
    key: str = ""
    seconds: float = 0.0
    num_voxels: int = 0
    num_tiles: int = 0
    replica: str = ""
    finished_at: str = ""


class Ledger:
    """The Ledger of one Job. As a context manager it flushes at the end."""

    def __init__(self, store: ObjectStore, job_id: str) -> None:
        self._store = store
        self._path = paths.job_path(job_id)
        self._buffer: list[LedgerEntry] = []
        self._buffered_since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()

    def record(self, entry: LedgerEntry) -> None:
        """Keep `entry`; stored at the latest with the next call after 50 entries or 5 s."""
        if not self._buffer:
            self._buffered_since = time.monotonic()
        self._buffer.append(entry)
        waited = time.monotonic() - self._buffered_since
        if len(self._buffer) >= FLUSH_ENTRIES or waited >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what was recorded since the last flush."""
        if self._buffer:
            lines = [ome_zarr.to_bytes(asdict(entry)) for entry in self._buffer]
            self._put_next(b"\n".join(lines) + b"\n")
            self._buffer.clear()

    def entries(self) -> dict[str, LedgerEntry]:
        """The latest stored entry of every Volume, by its id. Raises StoreError where damaged."""
        found: dict[str, LedgerEntry] = {}
        for path in self._part_paths():
            for line in self._store.get(path).splitlines():
                entry = _entry(line, where=f"{self._store.url}/{path}")
                found[entry.volume_id] = entry
        return found

    def write_spec(self, spec: Mapping[str, Json]) -> None:
        """Keep the Job's Spec. Raises ConflictError where the Job was started with another."""
        content = ome_zarr.to_bytes(spec)
        path = f"{self._path}/spec.json"
        try:
            self._store.put_if_absent(path, content)
        except ConflictError as error:
            if self._store.get(path) != content:
                raise ConflictError(
                    f"{self._store.url}/{path}: this Job was started with another Spec; use a "
                    "new job id, or the Spec it was started with"
                ) from error

    def read_spec(self) -> dict[str, Any]:
        """The Job's Spec. Raises NotFoundError where the Job was never started."""
        path = f"{self._path}/spec.json"
        return ome_zarr.read_document(self._store.get(path), f"{self._store.url}/{path}")

    def settle(self, name: str, value: Json) -> Json:
        """What the Job decided on `name`: `value`, unless an earlier run decided otherwise."""
        path = f"{self._path}/{paths.check_name(name, what='decision of a Job')}.json"
        try:
            self._store.put_if_absent(path, ome_zarr.to_bytes({"value": value}))
        except ConflictError:
            where = f"{self._store.url}/{path}"
            return ome_zarr.read_document(self._store.get(path), where).get("value", value)
        return value

    def decision(self, name: str) -> Json | None:
        """What was settled on `name`; None where nothing was."""
        path = f"{self._path}/{paths.check_name(name, what='decision of a Job')}.json"
        try:
            content = self._store.get(path)
        except NotFoundError:
            return None
        return ome_zarr.read_document(content, f"{self._store.url}/{path}").get("value")

    def _part_paths(self) -> list[str]:
        return [p for p in self._store.list_objects(f"{self._path}/ledger") if p.endswith(".jsonl")]

    def _put_next(self, content: bytes) -> None:
        parts = self._part_paths()
        number = int(parts[-1].rsplit("/", 1)[-1].removesuffix(".jsonl")) if parts else 0
        while True:
            number += 1
            try:
                self._store.put_if_absent(f"{self._path}/ledger/{number:08d}.jsonl", content)
            except ConflictError:
                continue  # another driver of this Job took the number
            return


def _entry(line: bytes, where: str) -> LedgerEntry:
    try:
        return LedgerEntry(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{where}: a line is no LedgerEntry ({error}); remove the file, its Volumes are then "
            "looked at again"
        ) from error
