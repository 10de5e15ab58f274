"""Quarantine: scans that could not be used stay listed with their reason until they can."""

from __future__ import annotations

import pytest

from unet_batch.errors import SpecError, StoreError
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.stores import open_store


def test_reasons_are_kept_until_the_scan_is_a_volume(archive: Archive) -> None:
    archive.quarantine.add("b", "truncated")
    archive.quarantine.add("a", "no pixels")
    listed = open_archive(archive.url).quarantine.entries()
    assert [(entry.id, entry.reason) for entry in listed] == [
        ("a", "no pixels"),
        ("b", "truncated"),
    ]
    archive.quarantine.remove("a")
    archive.quarantine.remove("a")
    assert [entry.id for entry in archive.quarantine.entries()] == ["b"]


def test_the_same_reason_again_changes_nothing(archive: Archive) -> None:
    archive.quarantine.add("a", "truncated")
    store = open_store(archive.url)
    _, version = store.get_versioned("quarantine/a.json")
    archive.quarantine.add("a", "truncated")
    assert store.get_versioned("quarantine/a.json")[1] == version
    archive.quarantine.add("a", "gone")
    assert [entry.reason for entry in archive.quarantine.entries()] == ["gone"]


def test_a_name_that_leaves_the_archive_is_refused(archive: Archive) -> None:
    with pytest.raises(SpecError, match="cannot be used in a path"):
        archive.quarantine.add("../x", "reason")


def test_a_damaged_entry_is_named(archive: Archive) -> None:
    open_store(archive.url).put("quarantine/a.json", b'{"id": "a"}')
    with pytest.raises(StoreError, match=r"quarantine/a\.json is damaged"):
        archive.quarantine.entries()
