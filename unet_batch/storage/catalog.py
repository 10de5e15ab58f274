"""Catalog: one row a Volume in small Parquet parts, so that a Job is planned without opening any.

Parts are only ever added whole, under names that say their content: ingests may run side by
side, and adding the same rows twice changes nothing. The Volumes stay the truth; `rebuild`
makes the Catalog from them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unet_batch.errors import ConflictError, NotFoundError, StoreError
from unet_batch.planning.volume_info import VolumeInfo
from unet_batch.storage import paths
from unet_batch.storage.ome_zarr import to_bytes
from unet_batch.storage.record import info_from_json, info_to_json
from unet_batch.storage.stores import ObjectStore
from unet_batch.storage.volume import read_info

MAX_READ_ATTEMPTS = 5
"""Times that parts may vanish under a reader because another process compacts them."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("modality", pa.string()),
        ("dtype", pa.string()),
        ("num_channels", pa.int32()),
        *((f"size_{axis}", pa.int32()) for axis in "zyx"),
        *((f"spacing_{axis}", pa.float64()) for axis in "zyx"),
        ("channels", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
        ("warnings", pa.list_(pa.string())),
        ("content_hash", pa.string()),
        ("written_at_ns", pa.int64()),
        ("info", pa.string()),
    ]
)
_Row = tuple[int, VolumeInfo]


class Catalog:
    """The rows of one Archive. Parts that were read once are remembered: they never change."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._parts: dict[str, list[_Row]] = {}

    def append(self, rows: Sequence[VolumeInfo]) -> None:
        """Add `rows` as one part; rows of the same ids that were there before are superseded."""
        if rows:
            self._write_part([(time.time_ns(), row) for row in rows])

    def rows(self) -> list[VolumeInfo]:
        """The latest row of every Volume, sorted by id; `labels` may be out of date."""
        return [row for _, row in _latest(self._read_parts().values())]

    def compact(self) -> None:
        """Join all parts into one; for the end of an ingest of many Volumes."""
        parts = self._read_parts()
        if len(parts) > 1:
            kept = self._write_part(_latest(parts.values()))
            self._remove(set(parts) - {kept})

    def rebuild(self) -> None:
        """Make the rows again from the Volumes themselves.

        Raises StoreError that names the Volumes whose description is damaged, after the rows
        of all others were written.
        """
        old = set(self._part_paths())
        rows: list[_Row] = []
        damaged: list[str] = []
        for volume_id in self._store.list_folders(paths.VOLUMES):
            try:
                rows.append((time.time_ns(), read_info(self._store, volume_id)))
            except NotFoundError:
                continue  # an ingest that has not published yet, or never will
            except StoreError as error:
                damaged.append(str(error))
        kept = self._write_part(rows) if rows else None
        self._remove(old - {kept})
        if damaged:
            raise StoreError(
                f"{len(damaged)} Volumes are not in the Catalog: " + "; ".join(damaged)
            )

    def _part_paths(self) -> list[str]:
        return [p for p in self._store.list_objects(paths.CATALOG) if p.endswith(".parquet")]

    def _read_parts(self) -> dict[str, list[_Row]]:
        for _ in range(MAX_READ_ATTEMPTS):
            names = self._part_paths()
            try:
                self._parts = {n: self._parts.get(n) or self._read_part(n) for n in names}
            except NotFoundError:
                continue  # compacted between the listing and the read: list again
            return self._parts
        raise StoreError(
            f"{self._store.url}/{paths.CATALOG} changed during each of {MAX_READ_ATTEMPTS} reads; "
            "try again when ingests are done"
        )

    def _read_part(self, path: str) -> list[_Row]:
        where = f"{self._store.url}/{path}"
        try:
            # Not pq.read_table: for small parts it takes five times as long.
            part = pq.ParquetFile(pa.BufferReader(self._store.get(path)))
            columns = part.read(["written_at_ns", "labels", "info"]).to_pydict()
            return [
                (written_at, info_from_json(json.loads(info), labels=labels, where=where))
                for written_at, labels, info in zip(*columns.values(), strict=True)
            ]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(
                f"{where} is damaged: {error}; run `unet-batch catalog rebuild`"
            ) from error

    def _write_part(self, rows: Iterable[_Row]) -> str:
        rows = list(rows)
        path = f"{paths.CATALOG}/{_digest(rows)}.parquet"
        buffer = BytesIO()
        table = pa.Table.from_pylist([_columns(*row) for row in rows], schema=_SCHEMA)
        pq.write_table(table, buffer, compression="zstd", use_dictionary=False)
        with suppress(ConflictError):  # the same rows were added before
            self._store.put_if_absent(path, buffer.getvalue())
        return path

    def _remove(self, names: Iterable[str]) -> None:
        for path in names:
            self._store.delete(path)


def _latest(parts: Iterable[list[_Row]]) -> list[_Row]:
    newest: dict[str, _Row] = {}
    for row in sorted((row for part in parts for row in part), key=lambda row: row[0]):
        newest[row[1].id] = row
    return [newest[volume_id] for volume_id in sorted(newest)]


def _digest(rows: Iterable[_Row]) -> str:
    """Of what the rows say, not of when they were written."""
    digest = hashlib.blake2b(digest_size=16)
    for _, info in rows:
        digest.update(to_bytes({**info_to_json(info), "labels": list(info.labels)}))
    return digest.hexdigest()


def _columns(written_at_ns: int, info: VolumeInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "modality": info.modality,
        "dtype": info.dtype,
        "num_channels": info.shape_czyx[0],
        **{f"size_{axis}": n for axis, n in zip("zyx", info.shape_zyx, strict=True)},
        **{f"spacing_{axis}": n for axis, n in zip("zyx", info.spacing_mm, strict=True)},
        "channels": info.channels,
        "labels": info.labels,
        "warnings": info.warnings,
        "content_hash": info.content_hash,
        "written_at_ns": written_at_ns,
        "info": to_bytes(info_to_json(replace(info, labels=()))).decode(),
    }
