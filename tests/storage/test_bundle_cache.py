"""Models of a registry, opened in place or as a copy, and never as something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_batch.errors import BundleError, NotFoundError, StoreError
from unet_batch.planning.model_versions import ModelVersion
from unet_batch.storage.bundle_cache import VARIABLE, address_of, find_model, folder_of
from unet_batch.storage.registry import Registry, open_registry
from unet_batch.storage.who import Note

NOTE, HASH = Note("ada", "2026-11-22T01:00:00+00:00", ""), "a" * 64
WEIGHTS = "models/model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def add(url: str, tmp_path: Path) -> tuple[Registry, ModelVersion]:
    (tmp_path / "bundle/models").mkdir(parents=True)
    (tmp_path / "bundle" / WEIGHTS).write_bytes(b"weights")
    registry = open_registry(url, create=True)
    return registry, registry.add("liver", tmp_path / "bundle", content_hash=HASH, note=NOTE)


def test_a_folder_that_is_no_address_is_itself() -> None:
    assert find_model("models/liver") == (Path("models/liver"), None)


def test_a_registry_in_a_folder_is_read_in_place(tmp_path: Path, cache: Path) -> None:
    registry, version = add(str(tmp_path / "registry"), tmp_path)
    folder, found = find_model(address_of(registry, version))
    assert found == version
    assert folder.is_relative_to(registry.url)
    assert (folder / WEIGHTS).read_bytes() == b"weights"
    assert not cache.exists()


def test_of_a_bucket_a_copy_is_kept(s3_bucket: str, tmp_path: Path, cache: Path) -> None:
    registry, version = add(f"s3://{s3_bucket}/{tmp_path.name}/registry", tmp_path)
    folder, _ = find_model(address_of(registry, version))
    assert folder == cache / HASH
    registry.store.delete_folder(registry.bundle_path(version))
    assert find_model(address_of(registry, version))[0] == folder
    assert [one.name for one in cache.iterdir()] == [HASH]


def test_a_damaged_copy_is_fetched_anew(tmp_path: Path) -> None:
    registry, version = add(f"memory://{tmp_path.name}", tmp_path)
    folder = folder_of(registry, version)
    (folder / WEIGHTS).write_bytes(b"weirdts")
    assert (folder_of(registry, version) / WEIGHTS).read_bytes() == b"weights"


def test_a_file_that_changed_in_the_registry_is_refused(tmp_path: Path) -> None:
    for url in (str(tmp_path / "registry"), f"memory://{tmp_path.name}-2"):
        registry, version = add(url, tmp_path / url.rpartition("/")[2])
        registry.store.put(f"{registry.bundle_path(version)}/{WEIGHTS}", b"weirdts")
        with pytest.raises(BundleError, match=f"{WEIGHTS} is not what was added"):
            folder_of(registry, version)


def test_a_cache_that_cannot_be_written_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, version = add(f"memory://{tmp_path.name}", tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(StoreError, match=VARIABLE):
        folder_of(registry, version)


def test_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    add(str(tmp_path / "registry"), tmp_path)
    with pytest.raises(NotFoundError, match="liver@2"):
        find_model(f"{tmp_path}/registry#liver@2")
