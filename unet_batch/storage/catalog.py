"""Catalog: one row a Volume in Parquet parts, so that a Job is planned without opening any.

Parts are only ever added whole, under names that say their content: ingests may run side by
side, and adding the same rows twice changes nothing. The Volumes stay the truth; `rebuild`
makes the Catalog from them. Of several rows of one id the one written last counts.

What is asked of a million rows (`table`, `briefs`, a condition) works on columns, in seconds;
the whole VolumeInfo, kept as JSON in the column `info`, is decoded for chosen rows only.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unet_batch.errors import ConflictError, DamagedError, NotFoundError, StoreError
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo
from unet_batch.planning.where import Condition, columns_of, parse_where
from unet_batch.side_by_side import each
from unet_batch.storage import paths
from unet_batch.storage.filtering import glob_matches, matches
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.ome_zarr import to_bytes
from unet_batch.storage.record import info_from_json, info_to_json
from unet_batch.storage.volume import read_info, read_labels_names

MAX_READ_ATTEMPTS = 5
"""Times that parts may vanish under a reader because another process compacts them."""

MAX_PART_ROWS = 100_000
"""Rows at which a part is left alone by `compact`: about 30 MB, read or written in a second."""

_ROW_GROUP = 10_000
_REBUILD_BATCH = 10_000

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("modality", pa.string()),
        ("dtype", pa.string()),
        ("num_channels", pa.int32()),
        *((f"shape_{axis}", pa.int32()) for axis in "zyx"),
        *((f"spacing_{axis}", pa.float64()) for axis in "zyx"),
        ("num_voxels", pa.int64()),
        ("num_nonfinite", pa.int64()),
        ("num_labels", pa.int32()),
        ("num_warnings", pa.int32()),
        ("channels", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
        ("warnings", pa.list_(pa.string())),
        ("content_hash", pa.string()),
        ("written_at_ns", pa.int64()),
        ("info", pa.string()),
    ]
)
BRIEF_COLUMNS = (
    "id", "modality", "dtype", "shape_z", "shape_y", "shape_x", "spacing_z", "spacing_y",
    "spacing_x", "num_nonfinite", "channels", "labels",
)  # fmt: skip
_TRIPLES = BRIEF_COLUMNS[3:9]
_SEPARATOR = "\x1f"  # ASCII's own unit separator: in no name
_Mask = NDArray[np.bool_]


class Catalog:
    """The rows of one Archive. Nothing is remembered: every question reads what is there now."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def append(self, rows: Sequence[VolumeInfo]) -> None:
        """Add `rows` as one part; rows of the same ids that were there before are superseded."""
        if rows:
            self._write_part(_to_table(rows))

    def rows(self, patterns: Sequence[str] = ("*",), where: str | None = None) -> list[VolumeInfo]:
        """The Volumes whose id matches one of the glob `patterns`, and `where`; sorted by id.

        Their `labels` may be out of date: the Volume knows better. Raises SpecError for a
        condition that cannot be read.
        """
        table = self.table(("labels", "warnings", "info"), patterns, where)
        rows: list[VolumeInfo] = []
        for batch in table.to_batches(max_chunksize=_ROW_GROUP):
            columns = batch.select(["info", "labels", "warnings"]).to_pydict().values()
            rows += [_from_columns(*row, where=self._where) for row in zip(*columns, strict=True)]
        return rows

    def briefs(
        self, patterns: Sequence[str] = ("*",), where: str | None = None
    ) -> Iterator[VolumeBrief]:
        """The same choice as `rows`, lazily, and of each just what lists and plans need."""
        yield from briefs_in(self.table(BRIEF_COLUMNS, patterns, where))

    def table(
        self,
        columns: Sequence[str],
        patterns: Sequence[str] = ("*",),
        where: str | None = None,
    ) -> pa.Table:
        """`id` and `columns` of the chosen Volumes as an Arrow table, sorted by id."""
        condition = parse_where(where) if where else None
        for _ in range(MAX_READ_ATTEMPTS):
            try:
                return self._read(("id", *columns), patterns, condition)
            except NotFoundError:
                continue  # compacted between the listing and the read: list again
        raise StoreError(
            f"{self._where} changed during each of {MAX_READ_ATTEMPTS} reads; "
            "try again when ingests are done"
        )

    def ids(self, patterns: Sequence[str] = ("*",), where: str | None = None) -> list[str]:
        """Ids of the same choice, sorted."""
        found: list[str] = self.table((), patterns, where)["id"].to_pylist()
        return found

    def compact(self) -> None:
        """Join small parts into large ones; for the end of an ingest, and now and then."""
        with suppress(NotFoundError):  # another process compacts: it will do
            small: list[_Part] = []
            for path in self._part_paths():
                part = self._open(path)
                if part.num_rows < MAX_PART_ROWS:
                    small.append(part)
                if sum(one.num_rows for one in small) >= MAX_PART_ROWS:
                    self._join(small)
                    small = []
            self._join(small)

    def rebuild(self) -> None:
        """Make the rows again from the Volumes themselves.

        Raises StoreError that names the Volumes whose description is damaged, after the rows
        of all others were written.
        """
        old = set(self._part_paths())
        ids = iter(self._store.list_folders(paths.VOLUMES))
        damaged: list[str] = []
        kept: set[str] = set()
        while batch := list(islice(ids, _REBUILD_BATCH)):
            found = each(self._read_volume, batch)
            damaged += [one for one in found if isinstance(one, str)]
            rows = [one for one in found if isinstance(one, VolumeInfo)]
            if rows:
                kept.add(self._write_part(_to_table(rows)))
        self._remove(old - kept)
        self.append(self.with_duplicates_noted(self._rows_of_equal_content()))
        self.compact()
        if damaged:
            raise StoreError(
                f"{len(damaged)} Volumes are not in the Catalog: " + "; ".join(damaged[:20])
            )

    def refresh_labels(self, ids: Iterable[str]) -> None:
        """Note which Labels these Volumes have now; for the end of a Job that published some.

        Rows stay as they are where a Volume's index of Labels is damaged: publishing tells of it.
        """
        if wanted := sorted(set(ids)):
            self.append(each(self._with_labels, self.rows(wanted)))

    def with_duplicates_noted(self, rows: Sequence[VolumeInfo]) -> list[VolumeInfo]:
        """Those of `rows` whose content another Volume has too, with a warning that names it.

        Of equal Volumes the one listed before, else the first by id, goes without.
        """
        listed = self.table(("content_hash",))
        hashes = pa.array({row.content_hash for row in rows}, pa.string())
        equal = listed.filter(pc.is_in(listed["content_hash"], value_set=hashes)).to_pydict()
        own = {row.id for row in rows}
        first: dict[str, str] = {}
        for other, content_hash in zip(equal["id"], equal["content_hash"], strict=True):
            if other not in own:
                first.setdefault(content_hash, other)
        noted = []
        for row in sorted(rows, key=lambda row: row.id):
            other = first.setdefault(row.content_hash, row.id)
            if other != row.id:
                noted.append(replace(row, warnings=(*row.warnings, _duplicate_warning(other))))
        return noted

    def unlisted(self, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that have no row."""
        wanted = set(ids)
        return wanted - set(self.table((), sorted(wanted))["id"].to_pylist()) if wanted else wanted

    def _rows_of_equal_content(self) -> list[VolumeInfo]:
        listed = self.table(("content_hash",))
        counts = listed.group_by("content_hash").aggregate([("id", "count")])
        several = counts.filter(pc.greater(counts["id_count"], 1))["content_hash"]
        equal = listed.filter(pc.is_in(listed["content_hash"], value_set=several.combine_chunks()))
        return self.rows(equal["id"].to_pylist()) if equal.num_rows else []

    @property
    def _where(self) -> str:
        return f"{self._store.url}/{paths.CATALOG}"

    def _part_paths(self) -> list[str]:
        return [p for p in self._store.list_objects(paths.CATALOG) if p.endswith(".parquet")]

    def _open(self, path: str) -> _Part:
        return _Part(path, f"{self._store.url}/{path}", self._store.get(path))

    def _read(
        self, columns: Sequence[str], patterns: Sequence[str], condition: Condition | None
    ) -> pa.Table:
        """The rows that count and are wanted; `info`, the bulk of a part, of those alone."""
        parts = [self._open(path) for path in self._part_paths()]
        needed = ("id", *(columns_of(condition) if condition else ()))
        found = [_SCHEMA.empty_table().select(list(dict.fromkeys(columns)))]
        for part, latest in zip(parts, _latest(parts), strict=True):
            chosen = latest
            if condition or "*" not in patterns:
                chosen = latest & _chosen(part.read(dict.fromkeys(needed)), patterns, condition)
            if chosen.any():
                found.append(part.read_rows(dict.fromkeys(columns), chosen))
        return pa.concat_tables(found).sort_by("id")

    def _join(self, parts: Sequence[_Part]) -> None:
        if len(parts) < 2:
            return
        columns = tuple(_SCHEMA.names)
        pairs = zip(parts, _latest(parts), strict=True)
        rows = [part.read_rows(columns, latest) for part, latest in pairs]
        kept = self._write_part(pa.concat_tables(rows).sort_by("id"))
        self._remove({part.path for part in parts} - {kept})

    def _with_labels(self, row: VolumeInfo) -> VolumeInfo:
        with suppress(DamagedError):
            return replace(row, labels=tuple(read_labels_names(self._store, row.id)))
        return row

    def _read_volume(self, volume_id: str) -> VolumeInfo | str | None:
        """The row of a Volume; what is damaged of it; None where nothing is published yet."""
        try:
            return read_info(self._store, volume_id)
        except NotFoundError:
            return None
        except StoreError as error:
            return str(error)

    def _write_part(self, table: pa.Table) -> str:
        path = f"{paths.CATALOG}/{_digest(table)}.parquet"
        buffer = BytesIO()
        # Ids, hashes and infos all differ: a dictionary of them would only cost time.
        repeated = [name for name in _SCHEMA.names if name not in ("id", "content_hash", "info")]
        pq.write_table(
            table, buffer, compression="zstd", row_group_size=_ROW_GROUP, use_dictionary=repeated
        )
        with suppress(ConflictError):  # the same rows were added before
            self._store.put_if_absent(path, buffer.getvalue())
        return path

    def _remove(self, names: Iterable[str]) -> None:
        for path in names:
            self._store.delete(path)


@dataclass(frozen=True, slots=True)
class _Part:
    """The bytes of one Parquet object, and where they came from."""

    path: str
    where: str
    content: bytes

    @property
    def num_rows(self) -> int:
        return int(self._file().metadata.num_rows)

    def read(self, columns: Iterable[str]) -> pa.Table:
        try:
            table = self._file().read(list(columns))
            return table.select(list(columns))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error

    def read_rows(self, columns: Iterable[str], mask: _Mask) -> pa.Table:
        """Only the row groups that `mask` touches are decoded."""
        columns = list(columns)
        starts = range(0, len(mask), _ROW_GROUP)
        groups = [n for n, k in enumerate(starts) if mask[k : k + _ROW_GROUP].any()]
        try:
            file = self._file()
            pieces = [
                file.read_row_group(n, columns)
                .select(columns)
                .filter(pa.array(mask[n * _ROW_GROUP : (n + 1) * _ROW_GROUP]))
                for n in groups
            ]
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        empty = pa.schema([_SCHEMA.field(name) for name in columns]).empty_table()
        return pa.concat_tables(pieces or [empty])

    def _file(self) -> pq.ParquetFile:
        try:
            # Not pq.read_table: for small parts it takes five times as long.
            return pq.ParquetFile(pa.BufferReader(self.content))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self.where} is damaged: {error}; run `unet-batch catalog rebuild`")


def _latest(parts: Sequence[_Part]) -> list[_Mask]:
    """For each part: its rows that no row written later supersedes."""
    if not parts:
        return []
    tables = [part.read(("id", "written_at_ns")) for part in parts]
    table = pa.concat_tables(tables)
    latest = np.ones(table.num_rows, dtype=bool)
    if pc.count_distinct(table["id"]).as_py() < table.num_rows:
        order = pc.sort_indices(table, [("id", "ascending"), ("written_at_ns", "ascending")])
        ids = table["id"].take(order).combine_chunks()
        is_last = pc.not_equal(ids[:-1], ids[1:]).to_numpy(zero_copy_only=False)
        latest[order.to_numpy()[:-1]] = is_last
    return np.split(latest, np.cumsum([one.num_rows for one in tables])[:-1])


def _chosen(table: pa.Table, patterns: Sequence[str], condition: Condition | None) -> _Mask:
    masks = [
        glob_matches(patterns, batch["id"]) & (matches(condition, batch) if condition else True)
        for batch in table.to_batches()
    ]
    return np.concatenate(masks) if masks else np.zeros(0, dtype=bool)


def _digest(table: pa.Table) -> str:
    """Of what the rows say, not of when they were written."""
    digest = hashlib.blake2b(digest_size=16)
    for batch in table.select(["info", "labels", "warnings"]).to_batches(_ROW_GROUP):
        for row in zip(*batch.to_pydict().values(), strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _to_table(rows: Iterable[VolumeInfo]) -> pa.Table:
    now = time.time_ns()
    return pa.Table.from_pylist([_columns(now, row) for row in rows], schema=_SCHEMA)


def _columns(written_at_ns: int, info: VolumeInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "modality": info.modality,
        "dtype": info.dtype,
        "num_channels": info.shape_czyx[0],
        **{f"shape_{axis}": n for axis, n in zip("zyx", info.shape_zyx, strict=True)},
        **{f"spacing_{axis}": n for axis, n in zip("zyx", info.spacing_mm, strict=True)},
        "num_voxels": info.num_voxels,
        "num_nonfinite": info.num_nonfinite,
        "num_labels": len(info.labels),
        "num_warnings": len(info.warnings),
        "channels": info.channels,
        "labels": info.labels,
        "warnings": info.warnings,
        "content_hash": info.content_hash,
        "written_at_ns": written_at_ns,
        "info": to_bytes(info_to_json(info)).decode(),
    }


def _from_columns(
    info: str, labels: Sequence[str], warnings: Sequence[str], *, where: str
) -> VolumeInfo:
    try:
        content: Mapping[str, Any] = {**json.loads(info), "warnings": warnings}
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{where} is damaged: {error}; run `unet-batch catalog rebuild`"
        ) from error
    return info_from_json(content, labels=labels, where=where)


def briefs_in(table: pa.Table) -> Iterator[VolumeBrief]:
    """The rows of a `table` that has the BRIEF_COLUMNS, lazily."""
    for batch in table.to_batches(max_chunksize=_ROW_GROUP):
        yield from _briefs_in(batch)


def _briefs_in(batch: pa.RecordBatch) -> Iterator[VolumeBrief]:
    z, y, x, dz, dy, dx = (batch[name].to_pylist() for name in _TRIPLES)
    texts = (_shared(batch[name]) for name in ("modality", "dtype"))
    lists = (_shared_lists(batch[name]) for name in ("channels", "labels"))
    return map(
        VolumeBrief,
        batch["id"].to_pylist(),
        *texts,
        map(_triple, z, y, x),
        map(_triple, dz, dy, dx),
        batch["num_nonfinite"].to_pylist(),
        *lists,
    )


def _shared(texts: pa.StringArray) -> Iterator[str]:
    """The texts, equal ones as one object: most columns hold few."""
    encoded = texts.dictionary_encode()
    return map(encoded.dictionary.to_pylist().__getitem__, encoded.indices.to_pylist())


def _shared_lists(lists: pa.ListArray) -> Iterator[tuple[str, ...]]:
    """The lists as tuples, decoded once for all equal ones, as pyarrow decodes them slowly."""
    joined = pc.binary_join(lists, _SEPARATOR).dictionary_encode()
    tuples = [
        tuple(text.split(_SEPARATOR)) if text else () for text in joined.dictionary.to_pylist()
    ]
    return map(tuples.__getitem__, joined.indices.to_pylist())


@lru_cache(maxsize=2**14)
def _triple(z: Any, y: Any, x: Any) -> tuple[Any, Any, Any]:
    """One tuple for equal numbers: of a million Volumes many share shape or spacing."""
    return z, y, x


def _duplicate_warning(other: str) -> str:
    return f"the same voxels at the same place as Volume {other!r}: a duplicate"
