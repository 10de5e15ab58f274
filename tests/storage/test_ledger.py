"""The Ledger keeps the latest outcome of every Volume, whoever writes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from unet_batch.errors import ConflictError, NotFoundError, SpecError, StoreError
from unet_batch.storage import ledger as ledger_module
from unet_batch.storage.ledger import Ledger, LedgerEntry
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store

ENTRY = LedgerEntry(
    "ct-1", "done", "", "key", 1.5, 1000, 8, "replica-0", "2026-01-02T03:04:05+00:00"
)


def test_entries_survive_the_process(store: ObjectStore) -> None:
    with Ledger(store, "job") as ledger:
        ledger.record(ENTRY)
        ledger.record(replace(ENTRY, volume_id="ct-2", outcome="quarantined", reason="NaN"))
    entries = Ledger(store, "job").entries()
    assert entries["ct-1"] == ENTRY
    assert entries["ct-2"].reason == "NaN"


def test_the_latest_entry_wins_even_if_the_clock_steps_back(store: ObjectStore) -> None:
    for outcome, at in (("quarantined", "2026-02-01"), ("done", "2026-01-01")):
        with Ledger(store, "job") as ledger:
            ledger.record(replace(ENTRY, outcome=outcome, finished_at=at))
    assert Ledger(store, "job").entries()["ct-1"].outcome == "done"


def test_two_drivers_of_one_job_keep_each_others_entries(store: ObjectStore) -> None:
    one, two = Ledger(store, "job"), Ledger(store, "job")
    one.record(ENTRY)
    two.record(replace(ENTRY, volume_id="ct-2"))
    one.flush()
    two.flush()
    assert set(one.entries()) == {"ct-1", "ct-2"}


def test_jobs_are_kept_apart(store: ObjectStore) -> None:
    with Ledger(store, "job-1") as ledger:
        ledger.record(ENTRY)
    assert Ledger(store, "job-2").entries() == {}


def test_a_full_buffer_is_stored(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "FLUSH_ENTRIES", 3)
    ledger = Ledger(store, "job")
    for number in range(4):
        ledger.record(replace(ENTRY, volume_id=f"v{number}"))
    assert set(ledger.entries()) == {"v0", "v1", "v2"}


def test_an_old_buffer_is_stored(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.0, 104.9, 105.0])
    monkeypatch.setattr(ledger_module.time, "monotonic", lambda: next(clock))
    ledger = Ledger(store, "job")
    ledger.record(ENTRY)
    ledger.record(ENTRY)
    assert ledger.entries() == {}
    ledger.record(ENTRY)
    assert set(ledger.entries()) == {"ct-1"}


def test_entries_survive_an_error_in_the_job(store: ObjectStore) -> None:
    def fail() -> None:
        with Ledger(store, "job") as ledger:
            ledger.record(ENTRY)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert set(Ledger(store, "job").entries()) == {"ct-1"}


def test_a_spec_is_kept_and_never_replaced(store: ObjectStore) -> None:
    ledger = Ledger(store, "job")
    with pytest.raises(NotFoundError):
        ledger.read_spec()
    ledger.write_spec({"model": "liver", "volumes": ["*"]})
    ledger.write_spec({"volumes": ["*"], "model": "liver"})
    with pytest.raises(ConflictError, match="another Spec"):
        ledger.write_spec({"model": "spleen"})
    assert ledger.read_spec() == {"model": "liver", "volumes": ["*"]}


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"volume_id": "x"}', b'{"surprise": 1}'])
def test_a_damaged_part_is_named(store: ObjectStore, line: bytes) -> None:
    store.put("jobs/job/ledger/00000001.jsonl", line)
    with pytest.raises(StoreError, match=r"00000001.jsonl: a line is no LedgerEntry"):
        Ledger(store, "job").entries()


def test_an_unsafe_job_id_is_refused(store: ObjectStore) -> None:
    with pytest.raises(SpecError):
        Ledger(store, "../other")


@pytest.fixture
def busy_ledger(tmp_path: Path) -> Ledger:
    with Ledger(open_store(tmp_path), "job") as ledger:
        ledger.record(replace(ENTRY, bundle_hash="old"))
        ledger.record(replace(ENTRY, volume_id="ct-2", bundle_hash="new", key="k2"))
        ledger.record(replace(ENTRY, volume_id="ct-3", outcome="quarantined", reason="NaN"))
        ledger.record(replace(ENTRY, volume_id="ct-4", outcome="skipped", bundle_hash="new"))
    return ledger


def test_what_is_done_is_known_with_its_weights(busy_ledger: Ledger) -> None:
    assert busy_ledger.counts() == {"done": 2, "quarantined": 1, "skipped": 1}
    assert busy_ledger.done_keys() == {"ct-1": "key", "ct-2": "k2", "ct-4": "key"}
    assert busy_ledger.done_with("new") == {"ct-2", "ct-4"}


def test_failures_and_single_volumes_are_found(busy_ledger: Ledger) -> None:
    assert [entry.volume_id for entry in busy_ledger.failures()] == ["ct-3"]
    found = busy_ledger.entry("ct-2")
    assert found is not None
    assert found.bundle_hash == "new"
    assert busy_ledger.entry("ct-9") is None


def test_a_ledger_of_a_job_that_never_began_is_empty(tmp_path: Path) -> None:
    ledger = Ledger(open_store(tmp_path), "none")
    assert (ledger.counts(), ledger.entries(), ledger.done_keys()) == ({}, {}, {})


def test_a_reason_as_long_as_a_page_is_cut(tmp_path: Path) -> None:
    with Ledger(open_store(tmp_path), "job") as ledger:
        ledger.record(replace(ENTRY, reason="x" * 100_000))
    assert len(ledger.entries()["ct-1"].reason) < 2010


def test_a_decision_holds_for_the_weights_it_was_made_for(store: ObjectStore) -> None:
    ledger = Ledger(store, "job")
    assert ledger.settle("engine", "torch", of="w1") == "torch"
    assert ledger.settle("engine", "openvino", of="w1") == "torch"
    assert ledger.decision("engine", of="w2") is None
    assert ledger.settle("engine", "openvino", of="w2") == "openvino"
    assert ledger.decision("engine") == "openvino"
