"""Masks are written out of sight, shown at once, and end the same after any crash."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unet_batch.errors import ConflictError, NotFoundError, SpecError, StoreError
from unet_batch.formats.scan import Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage import folder_store
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.layout import Layout
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box

CLASSES = (LabelClass(0, "background", (0, 0, 0)), LabelClass(1, "liver", (200, 30, 30)))
SHAPE = (6, 9, 10)
LAYOUT = Layout((2, 2, 2), (4, 4, 8))


def mask_voxels(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, SHAPE, dtype=np.uint8)


@pytest.fixture
def writer(archive: Archive, make_scan: Callable[..., Scan]) -> LabelsWriter:
    """A writer of several Shards to a Volume in each kind of place."""
    info = archive.write_scan(make_scan(shape=(1, *SHAPE)), source={}, layout=LAYOUT)
    return LabelsWriter.for_volume(archive.url, info, name="liver", classes=CLASSES, key="gen-a")


def write_all(writer: LabelsWriter, voxels: NDArray[np.uint8]) -> None:
    writer.prepare()
    for region in writer.write_regions():
        writer.write(region, voxels[region.slices])


def write_and_publish(writer: LabelsWriter) -> None:
    write_all(writer, mask_voxels(1))
    writer.publish({})


def volume_of(writer: LabelsWriter) -> Volume:
    return open_archive(writer.archive_url)[writer.volume_id]


def test_a_published_mask_is_read_back(writer: LabelsWriter) -> None:
    write_all(writer, mask_voxels(1))
    writer.publish({"model": "liver@1"})
    labels = volume_of(writer).labels["liver"]
    np.testing.assert_array_equal(labels.array.compute(), mask_voxels(1))
    assert labels.array.dtype == np.uint8
    assert labels.classes == CLASSES
    assert labels.provenance == {"model": "liver@1"}
    assert writer.published_key() == labels.key == "gen-a"


def test_nothing_is_visible_before_publish(writer: LabelsWriter) -> None:
    write_all(writer, mask_voxels(1))
    assert writer.published_key() is None
    assert list(volume_of(writer).labels) == []
    with pytest.raises(NotFoundError):
        volume_of(writer).labels["liver"]


def test_the_old_mask_stays_until_the_new_one_is_published(writer: LabelsWriter) -> None:
    write_all(writer, mask_voxels(1))
    writer.publish({})
    newer = replace(writer, key="gen-b")
    write_all(newer, mask_voxels(2))
    before = volume_of(writer).labels["liver"].array.compute()
    newer.publish({})
    after = volume_of(writer).labels["liver"].array.compute()
    np.testing.assert_array_equal(before, mask_voxels(1))
    np.testing.assert_array_equal(after, mask_voxels(2))


def test_a_replaced_generation_is_removed(writer: LabelsWriter) -> None:
    write_all(writer, mask_voxels(1))
    writer.publish({})
    newer = replace(writer, key="gen-b")
    write_all(newer, mask_voxels(2))
    newer.publish({})
    assert writer.missing_regions() == writer.write_regions()


def test_publishing_spares_what_others_are_writing(writer: LabelsWriter) -> None:
    other = replace(writer, key="gen-b")
    write_all(other, mask_voxels(2))
    write_all(writer, mask_voxels(1))
    writer.publish({})
    other.publish({})
    np.testing.assert_array_equal(volume_of(writer).labels["liver"].array.compute(), mask_voxels(2))


def test_publishing_again_changes_nothing(writer: LabelsWriter) -> None:
    write_all(writer, mask_voxels(1))
    writer.publish({"run": 1})
    writer.publish({"run": 2})
    assert volume_of(writer).labels["liver"].provenance == {"run": 1}


def test_an_incomplete_mask_is_not_published(writer: LabelsWriter) -> None:
    writer.prepare()
    first, *rest = writer.write_regions()
    writer.write(first, mask_voxels(1)[first.slices])
    assert writer.missing_regions() == rest
    with pytest.raises(ConflictError, match=f"{len(rest)} of {len(rest) + 1} write regions"):
        writer.publish({})
    assert writer.published_key() is None


def test_a_background_region_counts_as_written(writer: LabelsWriter) -> None:
    write_all(writer, np.zeros(SHAPE, np.uint8))
    assert writer.missing_regions() == []
    writer.publish({})
    assert not volume_of(writer).labels["liver"].array.compute().any()


def test_many_names_published_at_once_are_all_listed(writer: LabelsWriter) -> None:
    writers = [replace(writer, name=f"organ-{i}") for i in range(6)]

    def publish(one: LabelsWriter) -> None:
        write_all(one, mask_voxels(0))
        one.publish({})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(publish, writers))
    assert list(volume_of(writer).labels) == [w.name for w in writers]
    assert volume_of(writer).info.labels == tuple(w.name for w in writers)


def test_a_writer_travels_to_workers(writer: LabelsWriter) -> None:
    write_all(pickle.loads(pickle.dumps(writer)), mask_voxels(3))
    assert writer.missing_regions() == []


@pytest.fixture
def local_writer(local_archive: Archive, make_scan: Callable[..., Scan]) -> LabelsWriter:
    info = local_archive.write_scan(make_scan(shape=(1, *SHAPE)), source={}, layout=LAYOUT)
    return LabelsWriter.for_volume(local_archive.url, info, name="liver", classes=CLASSES, key="a")


def snapshot(writer: LabelsWriter) -> dict[str, bytes]:
    """Every file of the Volume's Labels."""
    folder = Path(writer.archive_url) / "volumes" / writer.volume_id / "labels"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Crash(BaseException):
    """The process dies."""


@pytest.mark.parametrize("num_puts", range(15))  # array, 12 Shards, mask, index
def test_after_a_crash_at_any_put_a_second_run_gives_the_same_bytes(
    local_writer: LabelsWriter,
    tmp_path: Path,
    make_scan: Callable[..., Scan],
    num_puts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_and_publish(local_writer)
    undisturbed = snapshot(local_writer)
    twin = replace(local_writer, archive_url=str(tmp_path / "twin"))
    twin_archive = open_archive(twin.archive_url, create=True)
    twin_archive.write_scan(make_scan(shape=(1, *SHAPE)), source={}, layout=LAYOUT)
    with monkeypatch.context() as patch:
        patch.setattr(folder_store, "_staged", dying_after(num_puts, folder_store._staged))
        with pytest.raises(Crash):
            write_and_publish(twin)
    random_order = random.Random(num_puts).sample(twin.write_regions(), 6)
    twin.prepare()
    for region in [*random_order, *twin.write_regions()]:
        twin.write(region, mask_voxels(1)[region.slices])
    twin.publish({})
    assert snapshot(twin) == undisturbed


def dying_after(num_puts: int, original: Callable[..., object]) -> Callable[..., object]:
    """`original`, which raises Crash instead of running a further time."""
    calls = iter(range(num_puts))

    def run(*arguments: object, **options: object) -> object:
        if next(calls, None) is None:
            raise Crash
        return original(*arguments, **options)

    return run


def test_a_lost_index_is_mended_by_publishing_again(local_writer: LabelsWriter) -> None:
    write_and_publish(local_writer)
    (Path(local_writer.archive_url) / "volumes/ct-1/labels/zarr.json").unlink()
    assert list(volume_of(local_writer).labels) == []
    local_writer.publish({})
    assert list(volume_of(local_writer).labels) == ["liver"]


def test_a_damaged_index_is_named(local_writer: LabelsWriter) -> None:
    write_and_publish(local_writer)
    (Path(local_writer.archive_url) / "volumes/ct-1/labels/zarr.json").write_text("{}")
    with pytest.raises(StoreError, match=r"labels/zarr\.json: no list"):
        volume_of(local_writer)


def test_only_whole_write_regions_are_taken(local_writer: LabelsWriter) -> None:
    for region in (Box((0, 0, 0), (2, 4, 8)), Box((1, 0, 0), (5, 4, 8)), Box((8, 0, 0), (8, 4, 8))):
        with pytest.raises(SpecError, match="none of its write regions"):
            local_writer.write(region, np.zeros(region.shape, np.uint8))


def test_voxels_of_another_shape_or_type_are_refused(local_writer: LabelsWriter) -> None:
    region = local_writer.write_regions()[0]
    with pytest.raises(SpecError, match="int64"):
        local_writer.write(region, np.zeros(region.shape, np.int64))
    with pytest.raises(SpecError, match="expected uint8 of shape"):
        local_writer.write(region, np.zeros((1, 2, 3), np.uint8))


@pytest.mark.parametrize(
    "unsafe", [{"key": "../x"}, {"name": "a/b"}, {"volume_id": ".."}, {"dtype": "float32"}]
)
def test_unsafe_names_and_types_are_refused(
    local_writer: LabelsWriter, unsafe: dict[str, str]
) -> None:
    with pytest.raises(SpecError):
        replace(local_writer, **unsafe).prepare()


@given(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.integers(1, 12)] * 3))
def test_write_regions_cover_each_voxel_once(
    shape: tuple[int, int, int], shard: tuple[int, int, int]
) -> None:
    layout = Layout(shard, shard)
    writer = LabelsWriter("memory://x", "v", "n", shape, "uint8", (), "k", (0.0,) * 16, layout)
    covered = np.zeros(shape, int)
    for region in writer.write_regions():
        covered[region.slices] += 1
    assert (covered == 1).all()
