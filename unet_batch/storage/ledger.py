"""Ledger: the durable record of what became of every Volume of a Job, the source for resuming.

    jobs/<job id>/spec.json
    jobs/<job id>/ledger/00000001.jsonl, 00000002.jsonl, ...    see ledger_parts

Entries gather in memory and go out as numbered parts, each put whole where none was: two
drivers of one Job never overwrite each other, and the numbers, not the clock, say what is
later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from unet_batch.errors import ConflictError, NotFoundError
from unet_batch.planning.volume_info import Json
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.ledger_parts import LedgerParts
from unet_batch.storage.object_store import ObjectStore

FLUSH_ENTRIES = 2000
FLUSH_SECONDS = 5.0
"""What a crash can cost: the entries of this time; their Volumes are found published."""

MAX_REASON = 2000
"""Characters of a reason that are kept: a library's message may be a page."""

Outcome = Literal["done", "skipped", "quarantined", "cancelled"]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What became of one Volume.

    `key` is the generation of its Labels, `replica` who worked on it and `node` on which
    machines, `finished_at` an ISO 8601 time in UTC, `reason` a sentence for a person where the
    outcome is not `done`. `peak_bytes` is the most memory that one of the Replicas had held by
    the end of its work on the Volume. The hashes say what went in: the voxels, the
    weights, and the fields of the Spec that decide the result; `version` which of a registry's
    the weights are, such as `liver@7`, where they come from one.
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
    node: str = ""
    peak_bytes: int = 0
    bundle_hash: str = ""
    spec_hash: str = ""
    input_hash: str = ""
    version: str = ""


class Ledger:
    """The Ledger of one Job. As a context manager it flushes at the end."""

    def __init__(self, store: ObjectStore, job_id: str) -> None:
        self._store = store
        self._path = paths.job_path(job_id)
        self._parts = LedgerParts(store, f"{self._path}/ledger")
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
        """Keep `entry`; stored at the latest with the next call after 2000 entries or 5 s."""
        if len(entry.reason) > MAX_REASON:
            entry = replace(entry, reason=f"{entry.reason[:MAX_REASON]} ...")
        if not self._buffer:
            self._buffered_since = time.monotonic()
        self._buffer.append(entry)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Store what was recorded where it is much, or has waited long. Else next to free."""
        if not self._buffer:
            return
        waited = time.monotonic() - self._buffered_since
        if len(self._buffer) >= FLUSH_ENTRIES or waited >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what was recorded since the last flush."""
        if self._buffer:
            self._parts.append([ome_zarr.to_bytes(asdict(entry)) for entry in self._buffer])
            self._buffer.clear()

    def table(self, *columns: str) -> pa.Table:
        """The latest stored entry of every Volume, by column; some columns, or all.

        Raises StoreError where damaged.
        """
        return self._parts.table(columns or None)

    def entries(self) -> dict[str, LedgerEntry]:
        """The latest stored entry of every Volume, by its id. Raises StoreError where damaged.

        For thousands of Volumes; of a million take the columns of `table`.
        """
        return {entry.volume_id: entry for entry in _entries(self.table())}

    def entry(self, volume_id: str) -> LedgerEntry | None:
        """The latest stored entry of one Volume; None where there is none."""
        table = self.table()
        return next(_entries(table.filter(pc.equal(table["volume_id"], volume_id))), None)

    def failures(self) -> Iterator[LedgerEntry]:
        """The latest entries of the Volumes that are quarantined."""
        yield from _entries(self._parts.table(outcome="quarantined"))

    def counts(self) -> dict[str, int]:
        """How many Volumes reached each outcome."""
        counted = pc.value_counts(self.table("outcome")["outcome"].combine_chunks())
        return {one["values"]: one["counts"] for one in counted.to_pylist()}

    def done_keys(self) -> dict[str, str]:
        """The generation of Labels that each done Volume has, as far as this Job was told.

        Whether that is what the Job would make today is for the caller to compare: the input, or
        the weights, may have changed since.
        """
        table = self._done("volume_id", "key")
        return dict(zip(table["volume_id"].to_pylist(), table["key"].to_pylist(), strict=True))

    def done_with(self, bundle_hash: str) -> set[str]:
        """The Volumes that are done with these weights, as far as this Job was told."""
        table = self._done("volume_id", "bundle_hash")
        same = table.filter(pc.equal(table["bundle_hash"], bundle_hash))
        return set(same["volume_id"].to_pylist())

    def _done(self, *columns: str) -> pa.Table:
        table = self.table("outcome", *columns)
        return table.filter(pc.is_in(table["outcome"], pa.array(["done", "skipped"])))

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

    def settle(self, name: str, value: Json, *, of: str = "") -> Json:
        """What the Job decided on `name`: `value`, unless an earlier run decided otherwise.

        `of` says what it was decided for, such as a hash of the weights: for others it is
        decided anew.
        """
        settled, path = value, self._decision_path(name)

        def change(content: bytes | None) -> bytes:
            nonlocal settled
            found = None if content is None else self._document(content, path)
            if content is not None and found is not None and found.get("of", "") == of:
                settled = found.get("value", value)
                return content
            settled = value
            return ome_zarr.to_bytes({"value": value, "of": of})

        self._store.update(path, change)
        return settled

    def keep(self, name: str, value: Json) -> None:
        """Store what is to be known of the Job under `name`, whatever was; `decision` reads it."""
        document: dict[str, Json] = {"value": value, "of": ""}
        self._store.put(self._decision_path(name), ome_zarr.to_bytes(document))

    def decision(self, name: str, *, of: str | None = None) -> Json | None:
        """What was settled on `name`, for `of` where it is given; None where nothing was."""
        path = self._decision_path(name)
        try:
            found = self._document(self._store.get(path), path)
        except NotFoundError:
            return None
        return found.get("value") if of in (None, found.get("of", "")) else None

    def _decision_path(self, name: str) -> str:
        return f"{self._path}/{paths.check_name(name, what='decision of a Job')}.json"

    def _document(self, content: bytes, path: str) -> dict[str, Any]:
        return ome_zarr.read_document(content, f"{self._store.url}/{path}")


def _entries(table: pa.Table) -> Iterator[LedgerEntry]:
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            yield LedgerEntry(**row)
