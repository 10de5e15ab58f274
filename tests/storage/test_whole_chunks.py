"""Arrays of whole Chunks read as zarr-python reads them; all others are left to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.storage import stored_array
from unet_batch.storage.archive import Archive
from unet_batch.storage.layout import Layout
from unet_batch.storage.stores import open_store
from unet_batch.storage.whole_chunks import WholeChunks

SELECTIONS = [..., 0, (slice(None), 2), (1, slice(1, 4), ..., -1), (slice(0, 2), slice(0, 5, 2))]


@pytest.fixture(autouse=True)
def nothing_opened() -> None:
    stored_array._opened.cache_clear()


@pytest.fixture
def place(local_archive: Archive, make_scan: Callable[..., Scan]) -> tuple[str, str]:
    """Archive and path of an image of two channels, a Chunk each."""
    local_archive.write_scan(make_scan(shape=(2, 5, 6, 7)), source={})
    stored = local_archive["ct-1"].stored
    return stored.url, stored.path


def chunk_file(place: tuple[str, str]) -> Path:
    return Path(*place) / "c.1.0.0.0"


@pytest.mark.parametrize("selection", SELECTIONS)
def test_it_reads_what_zarr_python_reads(place: tuple[str, str], selection: Any) -> None:
    found = WholeChunks.find(open_store(place[0]), place[1])
    assert found is not None
    theirs = zarr.open_array(str(Path(*place)), mode="r")
    np.testing.assert_array_equal(found[selection], theirs[selection])
    assert found[selection].flags.writeable
    assert found[selection].flags.c_contiguous


def test_masks_too(local_archive: Archive, place: tuple[str, str]) -> None:
    volume = local_archive["ct-1"]
    voxels = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
    volume.write_labels("organ", Mask(voxels, volume.affine, ()), provenance={})
    stored = volume.labels["organ"].stored
    assert isinstance(stored_array._opened(stored.url, stored.path), WholeChunks)
    np.testing.assert_array_equal(stored[:], voxels)


def test_only_the_channel_that_is_wanted_is_read(place: tuple[str, str]) -> None:
    chunk_file(place).unlink()
    found = WholeChunks.find(open_store(place[0]), place[1])
    assert found is not None
    assert found[0].shape == (5, 6, 7)
    with pytest.raises(FileNotFoundError, match=r"c\.1\.0\.0\.0"):
        _ = found[1]


@pytest.mark.parametrize(
    "change",
    [
        {"data_type": "no type"},
        {"shape": [2, 5, 6, 8]},
        {"shape": "all"},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]},
        {"fill_value": 1},
        {"node_type": "group"},
    ],
)
def test_other_arrays_are_left_to_zarr_python(
    place: tuple[str, str], change: dict[str, object]
) -> None:
    document = Path(*place) / "zarr.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), **change}))
    assert WholeChunks.find(open_store(place[0]), place[1]) is None


def test_sharded_arrays_are_left_to_zarr_python(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    layout = Layout((4, 4, 4), (8, 8, 8))
    local_archive.write_scan(make_scan(shape=(1, 8, 8, 8)), source={}, layout=layout)
    stored = local_archive["ct-1"].stored
    assert WholeChunks.find(open_store(stored.url), stored.path) is None


@pytest.mark.parametrize("position", [0, 20, -1])
def test_damage_is_named(local_archive: Archive, place: tuple[str, str], position: int) -> None:
    content = bytearray(chunk_file(place).read_bytes())
    content[position] ^= 4
    chunk_file(place).write_bytes(content)
    with pytest.raises(StoreError, match=r"ct-1/0-.* is damaged .*checksum"):
        local_archive["ct-1"].stored[:]


@pytest.mark.parametrize("length", [0, 3, 30])
def test_a_truncated_chunk_is_named(
    local_archive: Archive, place: tuple[str, str], length: int
) -> None:
    chunk_file(place).write_bytes(chunk_file(place).read_bytes()[:length])
    with pytest.raises(StoreError, match=r"ct-1/0-.* is damaged"):
        local_archive["ct-1"].stored[:]


def test_a_missing_chunk_is_no_background(local_archive: Archive, place: tuple[str, str]) -> None:
    chunk_file(place).unlink()
    with pytest.raises(NotFoundError, match=r"c\.1\.0\.0\.0 is missing"):
        local_archive["ct-1"].stored[:]
