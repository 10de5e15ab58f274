"""Lazy reading: only what is needed, and damage is told from background."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.formats.scan import Scan
from unet_batch.storage import stored_array
from unet_batch.storage.archive import Archive
from unet_batch.storage.folder_store import FolderStore
from unet_batch.storage.layout import Layout
from unet_batch.storage.volume import Volume

LAYOUT = Layout((4, 4, 4), (8, 8, 8))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def scan(make_scan: Callable[..., Scan]) -> Scan:
    return make_scan(shape=(2, 16, 16, 20))


@pytest.fixture
def volume(local_archive: Archive, scan: Scan) -> Volume:
    local_archive.write_scan(scan, source={}, layout=LAYOUT)
    return local_archive[scan.name]


def shard_file(volume: Volume, *cell: int) -> Path:
    """The file of one Shard of the Volume's image."""
    (array,) = (Path(volume.archive_url) / "volumes" / volume.id).glob("0-*")
    return array / ".".join(["c", *map(str, cell)])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(path, what of it was asked for) of every read from the folder of Shards."""
    seen: list[tuple[str, str]] = []

    def spy_on(name: str) -> None:
        original = getattr(FolderStore, name)

        def spy(store: FolderStore, path: str, *rest: Any) -> Any:
            if "/c." in path:
                number = f" {len(rest[0])}" if name == "get_ranges" else ""
                seen.append((path.split("/c.")[1], name + number))
            return original(store, path, *rest)

        monkeypatch.setattr(FolderStore, name, spy)

    for name in ("get", "get_tail", "get_ranges"):
        spy_on(name)
    return seen


def test_a_region_reads_only_the_chunks_it_meets(
    volume: Volume, scan: Scan, reads: list[tuple[str, str]]
) -> None:
    region = volume.image[0, 9:11, 2:4, 1:6]
    np.testing.assert_array_equal(region.compute(), scan.voxels_czyx[0, 9:11, 2:4, 1:6])
    # The index of the Shard, then two of its eight Chunks at once.
    assert reads == [("0.1.0.0", "get_tail"), ("0.1.0.0", "get_ranges 2")]


def test_a_whole_shard_is_read_at_once(
    volume: Volume, scan: Scan, reads: list[tuple[str, str]]
) -> None:
    np.testing.assert_array_equal(volume.stored[:, :, :8, 16:], scan.voxels_czyx[:, :, :8, 16:])
    assert sorted(reads) == [(f"{c}.{z}.0.2", "get") for c in (0, 1) for z in (0, 1)]


def test_a_region_across_shards_is_one_task_for_each(volume: Volume) -> None:
    (optimized,) = dask.optimize(volume.image[1, 6:10, 0:3, 0:3])
    assert len(optimized.__dask_keys__()) == 2


def test_opening_reads_no_voxels(volume: Volume, reads: list[tuple[str, str]]) -> None:
    assert volume.image.shape == (2, 16, 16, 20)
    assert volume.image.dtype == np.int16
    assert volume.image.chunks[1:] == ((8, 8), (8, 8), (8, 8, 4))
    assert reads == []


def test_an_array_travels_as_its_address(volume: Volume, scan: Scan) -> None:
    pickled = pickle.dumps(volume.image[:, 3])
    assert len(pickled) < 10_000
    np.testing.assert_array_equal(pickle.loads(pickled).compute(), scan.voxels_czyx[:, 3])


def test_a_missing_shard_is_an_error_not_background(volume: Volume) -> None:
    shard_file(volume, 0, 1, 0, 0).unlink()
    assert volume.image[0, :8].compute().any()
    with pytest.raises(NotFoundError, match=r"c\.0\.1\.0\.0 is missing"):
        volume.image[0, 8:].compute()


def test_a_truncated_shard_is_named(volume: Volume) -> None:
    file = shard_file(volume, 1, 0, 0, 0)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"ct-1/0-.* is damaged"):
        volume.image[1, :8].compute()


def test_a_flipped_bit_is_named(volume: Volume) -> None:
    file = shard_file(volume, 1, 0, 0, 0)
    content = bytearray(file.read_bytes())
    content[30] ^= 16
    file.write_bytes(content)
    with pytest.raises(StoreError, match="checksum"):
        volume.image[1, :8].compute()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"zarr_format": 3, "node_type": "array"}'])
def test_a_damaged_array_document_is_named(volume: Volume, content: str) -> None:
    stored_array._opened.cache_clear()
    (shard_file(volume).parent / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match="ct-1/0-"):
        volume.image.compute()
