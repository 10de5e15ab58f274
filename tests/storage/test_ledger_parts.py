"""Parts of a Ledger are joined as they become many; nothing is lost on the way."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from unet_batch.storage import ledger_parts
from unet_batch.storage.ledger import LedgerEntry
from unet_batch.storage.ledger_parts import SCHEMA, LedgerParts
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store


@pytest.fixture
def folder_store(tmp_path: object) -> ObjectStore:
    return open_store(str(tmp_path))


@pytest.fixture(autouse=True)
def few_make_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_parts, "FAN", 4)


def line(volume_id: str, outcome: str = "done") -> bytes:
    return json.dumps({"volume_id": volume_id, "outcome": outcome}).encode()


def outcomes(parts: LedgerParts) -> dict[str, str]:
    table = parts.table(["volume_id", "outcome"])
    return dict(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


def names(store: ObjectStore) -> list[str]:
    return [path.rpartition("/")[2] for path in store.list_objects("l")]


def test_parts_are_joined_twice_and_the_latest_entry_counts(folder_store: ObjectStore) -> None:
    parts = LedgerParts(folder_store, "l")
    for number in range(18):
        parts.append([line(f"v{number}"), line("again", f"run {number}")])
    assert names(folder_store) == ["00000001-00000016.parquet", "00000017.jsonl", "00000018.jsonl"]
    found = outcomes(parts)
    assert len(found) == 19
    assert found["again"] == "run 17"


def test_a_join_that_was_cut_short_is_read_as_it_lies(folder_store: ObjectStore) -> None:
    parts = LedgerParts(folder_store, "l")
    for number in range(3):
        parts.append([line(f"v{number}")])
    left = {path: folder_store.get(path) for path in folder_store.list_objects("l")}
    parts.append([line("v3")])
    for path, content in left.items():  # as where it died before it removed them
        folder_store.put(path, content)
    assert set(outcomes(parts)) == {"v0", "v1", "v2", "v3"}


def test_a_slow_driver_whose_numbers_were_joined_meanwhile_loses_nothing(
    folder_store: ObjectStore,
) -> None:
    slow, swift = LedgerParts(folder_store, "l"), LedgerParts(folder_store, "l")
    slow.append([line("first")])
    for number in range(6):
        swift.append([line(f"v{number}")])
    slow.append([line("late")])
    assert set(outcomes(swift)) == {"first", "late", *(f"v{k}" for k in range(6))}


def test_a_reader_that_meets_a_join_looks_again(
    folder_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, reader = LedgerParts(folder_store, "l"), LedgerParts(folder_store, "l")
    for number in range(3):
        parts.append([line(f"v{number}")])
    listed = reader._parts()
    parts.append([line("v3")])
    answers = iter([listed])
    real = reader._parts
    monkeypatch.setattr(reader, "_parts", lambda: next(answers, None) or real())
    assert set(outcomes(reader)) == {"v0", "v1", "v2", "v3"}


def test_entries_of_one_outcome_are_the_latest_ones_only(folder_store: ObjectStore) -> None:
    parts = LedgerParts(folder_store, "l")
    parts.append([line("a", "quarantined"), line("b", "quarantined")])
    parts.append([line("a", "done")])
    assert parts.table(outcome="quarantined")["volume_id"].to_pylist() == ["b"]


def test_what_an_older_version_wrote_has_the_new_fields_empty(folder_store: ObjectStore) -> None:
    parts = LedgerParts(folder_store, "l")
    parts.append([line("a")])
    row = parts.table().to_pylist()[0]
    assert (row["node"], row["peak_bytes"], row["seconds"]) == ("", 0, 0.0)


def test_a_joined_part_holds_every_field_of_an_entry() -> None:
    assert SCHEMA.names == [field.name for field in fields(LedgerEntry)]
