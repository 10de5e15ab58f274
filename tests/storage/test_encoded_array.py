"""Arrays of ours read as zarr-python reads them; all others are left to it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.storage import stored_array
from unet_batch.storage.archive import Archive
from unet_batch.storage.encoded_array import EncodedArray
from unet_batch.storage.encoding import Encoding
from unet_batch.storage.layout import Layout
from unet_batch.storage.stores import open_store
from unet_batch.storage.volume import Volume

from .encoded import written

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
    found = EncodedArray.find(open_store(place[0]), place[1])
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
    assert isinstance(stored_array._opened(stored.url, stored.path), EncodedArray)
    np.testing.assert_array_equal(stored[:], voxels)


def test_only_the_channel_that_is_wanted_is_read(place: tuple[str, str]) -> None:
    chunk_file(place).unlink()
    found = EncodedArray.find(open_store(place[0]), place[1])
    assert found is not None
    assert found[0].shape == (5, 6, 7)
    with pytest.raises(FileNotFoundError, match=r"c\.1\.0\.0\.0"):
        _ = found[1]


@pytest.mark.parametrize(
    "change",
    [
        {"data_type": "no type"},
        {"chunk_grid": {"name": "rectangular"}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 5, 6]}}},
        {"codecs": []},
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
    assert EncodedArray.find(open_store(place[0]), place[1]) is None


axes = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3))


@given(
    st.lists(axes, min_size=3, max_size=3),
    st.integers(0, 3),
    st.sampled_from(["blosc", "zstd"]),
    st.data(),
)
def test_any_part_of_any_cuts_is_what_zarr_python_reads(
    cuts: list[tuple[int, int, int]],
    num_channels: int,
    compression: Literal["blosc", "zstd"],
    data: st.DataObject,
) -> None:
    """Shards of several Chunks, clipped ones, absent ones, with a channel axis and without."""
    cuts = [(num_channels, 1, 1), *cuts] if num_channels else cuts
    shape = tuple(n for n, _, _ in cuts)
    encoding = Encoding(
        "int16", tuple(c for _, c, _ in cuts), tuple(c * k for _, c, k in cuts), compression
    )
    voxels = np.random.default_rng(0).integers(0, 2, shape).astype(np.int16)
    voxels[..., : shape[-1] // 2] = 0  # Chunks that are not stored
    store = open_store(f"memory://{uuid.uuid4().hex}")
    for key, content in written(voxels, encoding).items():
        store.put(f"array/{key}", content)
    bounds = [data.draw(st.tuples(st.integers(0, n), st.integers(0, n))) for n in shape]
    selection = tuple(slice(*sorted(one)) for one in bounds)
    found = EncodedArray.find(store, "array")
    assert found is not None
    np.testing.assert_array_equal(found[selection], voxels[selection])
    np.testing.assert_array_equal(found[...], voxels)
    theirs = zarr.open_array(store=store.zarr_store, path="array", mode="r")
    np.testing.assert_array_equal(theirs[selection], voxels[selection])


@pytest.fixture
def shard(local_archive: Archive, make_scan: Callable[..., Scan]) -> tuple[Volume, Path]:
    """A Volume of one Shard of eight Chunks, and its file."""
    layout = Layout((4, 4, 4), (8, 8, 8))
    local_archive.write_scan(make_scan(shape=(1, 8, 8, 8)), source={}, layout=layout)
    volume = local_archive["ct-1"]
    opened = stored_array._opened(volume.stored.url, volume.stored.path)
    assert isinstance(opened, EncodedArray)
    return volume, Path(volume.stored.url, volume.stored.path, "c.0.0.0.0")


PARTS = [(slice(None),), (0, slice(4), slice(8))]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("position", [0, 20, -1, -5])
def test_damage_of_a_shard_is_named(
    shard: tuple[Volume, Path], position: int, part: tuple[Any, ...]
) -> None:
    """In the first Chunk, in the index or in its checksum."""
    volume, file = shard
    content = bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"ct-1/0-.* is damaged .*checksum"):
        volume.stored[part]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("length", [0, 3, 131, 132, 200])
def test_a_truncated_shard_is_named(
    shard: tuple[Volume, Path], length: int, part: tuple[Any, ...]
) -> None:
    volume, file = shard
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(StoreError, match=r"ct-1/0-.* is damaged"):
        volume.stored[part]


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_shard_is_no_background(
    shard: tuple[Volume, Path], part: tuple[Any, ...]
) -> None:
    volume, file = shard
    file.unlink()
    with pytest.raises(NotFoundError, match=r"c\.0\.0\.0\.0 is missing"):
        volume.stored[part]


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
