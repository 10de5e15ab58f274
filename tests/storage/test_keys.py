"""The Archive's key: made once, private, never mixed with another."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_batch.errors import SpecError
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.keys import VARIABLE, pseudonym_key
from unet_batch.storage.stores import open_store


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_an_archive_makes_its_key_once(archive: Archive) -> None:
    key = pseudonym_key(open_store(archive.url))
    assert len(key) == 32
    assert open_archive(archive.url).pseudonyms().key == key


def test_two_archives_have_two_keys(tmp_path: Path) -> None:
    first, second = (open_archive(tmp_path / name, create=True).pseudonyms() for name in "ab")
    assert first.key != second.key


def test_a_key_in_a_folder_is_for_its_owner_alone(local_archive: Archive) -> None:
    local_archive.pseudonyms()
    assert (Path(local_archive.url) / "keys/pseudonyms.key").stat().st_mode & 0o777 == 0o600


def test_a_key_from_the_environment_never_touches_the_archive(
    local_archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "a long enough secret")
    key = local_archive.pseudonyms().key
    stored = (Path(local_archive.url) / "keys/pseudonyms.key").read_bytes()
    assert key not in stored
    assert key.hex().encode() not in stored
    assert local_archive.pseudonyms().key == key


def test_another_key_is_refused(local_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a long enough secret")
    local_archive.pseudonyms()
    for other in ("another long secret", None):
        monkeypatch.delenv(VARIABLE) if other is None else monkeypatch.setenv(VARIABLE, other)
        with pytest.raises(SpecError, match=f"begun with another key.*{VARIABLE}"):
            local_archive.pseudonyms()
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(SpecError, match="5 characters"):
        local_archive.pseudonyms()
