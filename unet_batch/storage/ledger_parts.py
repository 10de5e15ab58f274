"""The files of a Ledger: numbered parts as they were written, joined as they become many.

    00000129.jsonl ...              a part: entries of some seconds, one a line
    00000065-00000128.parquet       64 parts joined: the latest entry of every Volume in them
    00000001-00004096.parquet       64 of those

Whoever writes a part whose number is a multiple of 64 joins; whatever it leaves undone when it
dies is read as it lies. A file whose numbers lie within those of another adds nothing, and is
removed. So a Job of a million Volumes is read from some hundred files, not ten thousand.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unet_batch.errors import ConflictError, NotFoundError, StoreError
from unet_batch.side_by_side import each
from unet_batch.storage.object_store import ObjectStore

FAN = 64
"""Files that are joined to one."""

MAX_READERS = 16
MAX_LISTINGS = 5
"""Times that parts may be joined, and be gone, between listing and reading them."""

SCHEMA = pa.schema(
    [
        ("volume_id", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("key", pa.string()),
        ("seconds", pa.float64()),
        ("num_voxels", pa.int64()),
        ("num_tiles", pa.int64()),
        ("replica", pa.string()),
        ("finished_at", pa.string()),
        ("node", pa.string()),
        ("peak_bytes", pa.int64()),
        ("bundle_hash", pa.string()),
        ("spec_hash", pa.string()),
        ("input_hash", pa.string()),
        ("version", pa.string()),
    ]
)
"""Of a joined file: the fields of LedgerEntry."""

_EMPTY = {"string": "", "double": 0.0, "int64": 0}


class Part(NamedTuple):
    """One file: the numbers of the parts that it holds, both included, and where it lies."""

    first: int
    last: int
    path: str


class LedgerParts:
    """The files below one folder."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store, self._folder = store, folder
        self._last: int | None = None

    def append(self, lines: Sequence[bytes]) -> None:
        """Store lines of JSON as the next part, whoever else writes parts too."""
        number = self._last if self._last is not None else self._newest()
        content = b"\n".join(lines) + b"\n"
        while True:
            number += 1
            path = f"{self._folder}/{number:08d}.jsonl"
            try:
                self._store.put_if_absent(path, content)
            except ConflictError:
                continue  # another driver of this Job took the number
            if any(part.path == path for part in self._parts()):
                break
            self._store.delete(path)  # it took the number long ago, and has joined the parts
            number = self._newest()
        self._last = number
        for width in (FAN, FAN * FAN):
            if number % width == 0:
                self._join(number - width + 1, number)

    def table(
        self, columns: Sequence[str] | None = None, *, outcome: str | None = None
    ) -> pa.Table:
        """The latest entry of every Volume; its columns, or some; those of one outcome, or all.

        Raises StoreError where a file is damaged.
        """
        wanted = list(columns or SCHEMA.names)
        for _ in range(MAX_LISTINGS):
            try:
                every = self._rows({*wanted, "volume_id", "outcome"}, self._parts())
            except NotFoundError:
                continue  # joined between the listing and the reading
            return every.select(wanted).take(_latest(every, outcome))
        raise StoreError(
            f"{self._store.url}/{self._folder}: its files change faster than they can be read"
        )

    def _rows(self, columns: Set[str], parts: Iterable[Part]) -> pa.Table:
        """All rows, in the order in which they were written."""
        wanted = [name for name in SCHEMA.names if name in columns]
        tables = each(lambda part: self._read(part, wanted), parts, at_once=MAX_READERS)
        schema = pa.schema([SCHEMA.field(name) for name in wanted])
        return pa.concat_tables([schema.empty_table(), *tables])

    def _read(self, part: Part, columns: list[str]) -> pa.Table:
        where = f"{self._store.url}/{part.path}"
        content = self._store.get(part.path)
        if part.path.endswith(".jsonl"):
            return _from_lines(content, where).select(columns)
        try:
            return _filled(pq.read_table(io.BytesIO(content))).select(columns)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(_damage(where, error)) from error

    def _join(self, first: int, last: int) -> None:
        """Make one file of the parts from `first` to `last`, and remove those."""
        inner = [one for one in self._parts() if first <= one.first and one.last <= last]
        buffer = io.BytesIO()
        every = self._rows(set(SCHEMA.names), inner)
        pq.write_table(every.take(_latest(every)), buffer, compression="zstd")
        target = f"{self._folder}/{first:08d}-{last:08d}.parquet"
        with suppress(ConflictError):  # another driver joined the same parts to the same file
            self._store.put_if_absent(target, buffer.getvalue())
        for part in inner:
            if part.path != target:
                self._store.delete(part.path)

    def _newest(self) -> int:
        return max((part.last for part in self._parts()), default=0)

    def _parts(self) -> list[Part]:
        """The files that count, by number; those that lie within another are left out."""
        found = map(_part, self._store.list_objects(self._folder))
        parts = sorted(filter(None, found), key=lambda part: (part.first, -part.last))
        kept: list[Part] = []
        for part in parts:
            if not kept or part.last > kept[-1].last:
                kept.append(part)
        return kept


def _part(path: str) -> Part | None:
    stem, _, suffix = path.rpartition("/")[2].partition(".")
    first, _, last = stem.partition("-")
    if suffix not in ("jsonl", "parquet") or not (first + last).isdecimal():
        return None
    return Part(int(first), int(last or first), path)


def _latest(table: pa.Table, outcome: str | None = None) -> pa.Array:
    """Where the last row of every Volume is; of those with `outcome`, where one is given."""
    numbered = table.select(["volume_id"]).append_column("row", pa.array(np.arange(len(table))))
    last = numbered.group_by("volume_id").aggregate([("row", "max")])["row_max"].combine_chunks()
    last = pc.take(last, pc.array_sort_indices(last))
    if outcome is None:
        return last
    return last.filter(pc.equal(pc.take(table["outcome"], last), outcome).combine_chunks())


def _from_lines(content: bytes, where: str) -> pa.Table:
    try:
        rows = [_row(line) for line in content.splitlines()]
        return _filled(pa.Table.from_pylist(rows, schema=SCHEMA))
    except (TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise StoreError(_damage(where, error)) from error


def _row(line: bytes) -> dict[str, object]:
    row: dict[str, object] = json.loads(line)
    if not {"volume_id", "outcome"} <= set(row) <= set(SCHEMA.names):
        raise ValueError(f"it has the fields {', '.join(map(str, row)) or 'none'}")
    return row


def _filled(table: pa.Table) -> pa.Table:
    """All columns of SCHEMA; what an older version did not write is empty."""
    columns = []
    for field in SCHEMA:
        empty = pa.scalar(_EMPTY[str(field.type)], field.type)
        if field.name in table.column_names:
            columns.append(pc.fill_null(table[field.name].cast(field.type), empty))
        else:
            columns.append(pa.repeat(empty, len(table)))
    return pa.table(columns, schema=SCHEMA)


def _damage(where: str, error: Exception) -> str:
    return (
        f"{where}: a line is no LedgerEntry ({error}); remove the file, its Volumes are then "
        "looked at again"
    )
