"""Scans get into an Archive whole or not at all, once, and come out as they were."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet_batch.errors import (
    ConflictError,
    GeometryError,
    NotFoundError,
    ScanError,
    SpecError,
    StoreError,
)
from unet_batch.formats.scan import Scan
from unet_batch.storage import folder_store
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.layout import Layout
from unet_batch.storage.stores import open_store


def test_a_scan_comes_back_as_it_was(archive: Archive, make_scan: Callable[..., Scan]) -> None:
    scan = make_scan(shape=(3, 5, 6, 7))
    info = archive.write_scan(scan, source={"path": "a.nii"}, warnings=["anisotropic"])
    volume = open_archive(archive.url)["ct-1"]
    assert volume.info == info
    assert info.warnings == ("anisotropic",)
    np.testing.assert_array_equal(volume.image.compute(), scan.voxels_czyx)
    np.testing.assert_array_equal(volume.affine, scan.affine)


def test_the_source_is_kept_with_the_volume(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    local_archive.write_scan(make_scan(), source={"path": "a.nii"})
    document = json.loads((Path(local_archive.url) / "volumes/ct-1/zarr.json").read_text())
    assert document["attributes"]["unet_batch"]["source"] == {"path": "a.nii"}


def test_an_archive_is_a_mapping_of_its_volumes(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    for name in ("b", "a"):
        archive.write_scan(make_scan(name), source={})
    assert list(archive) == ["a", "b"]
    assert len(archive) == 2
    assert "a" in archive
    assert "c" not in archive
    assert archive.get("c") is None
    with pytest.raises(KeyError, match=r"no Volume 'c' in .*; `unet-batch ls`"):
        archive["c"]


def test_the_same_scan_again_changes_nothing(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    first = archive.write_scan(make_scan(), source={"run": 1})
    before = snapshot(archive)
    assert archive.write_scan(make_scan(), source={"run": 2}) == first
    assert snapshot(archive) == before


def test_another_scan_of_the_same_id_is_refused(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    archive.write_scan(make_scan(seed=1), source={})
    before = snapshot(archive)
    with pytest.raises(ConflictError, match="'ct-1' holds another scan"):
        archive.write_scan(make_scan(seed=2), source={})
    assert snapshot(archive) == before


def test_of_concurrent_writers_of_one_id_one_wins_whole(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    def write(seed: int) -> int | None:
        try:
            archive.write_scan(make_scan(seed=seed), source={})
        except ConflictError:
            return None
        return seed

    with ThreadPoolExecutor(4) as pool:
        (winner,) = [seed for seed in pool.map(write, range(6)) if seed is not None]
    stored = archive["ct-1"].image.compute()
    np.testing.assert_array_equal(stored, make_scan(seed=winner).voxels_czyx)


@pytest.mark.parametrize("num_puts", range(5))
def test_a_crash_shows_no_half_volume_and_a_second_run_mends_it(
    local_archive: Archive,
    make_scan: Callable[..., Scan],
    num_puts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = make_scan(shape=(2, 4, 4, 4))  # document, two Shards, group, row of the Catalog
    calls = iter(range(num_puts))
    original = folder_store._staged

    def dying(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(folder_store, "_staged", dying)
        with pytest.raises(KeyboardInterrupt):
            local_archive.write_scan(scan, source={})
    assert (scan.name in local_archive) == (num_puts >= 4)
    local_archive.write_scan(scan, source={})
    np.testing.assert_array_equal(local_archive["ct-1"].image.compute(), scan.voxels_czyx)
    assert list(local_archive) == ["ct-1"]


def test_the_content_hash_tells_scans_apart(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    scan = make_scan()
    other_voxels = scan.voxels_czyx.copy()
    other_voxels[0, 0, 0, 0] += 1
    variants = [
        scan,
        replace(scan, affine=scan.affine + np.array([0, 0, 0, 1e-6])),
        replace(scan, channels=("other",)),
        replace(scan, voxels_czyx=scan.voxels_czyx.astype(np.int32)),
        replace(scan, voxels_czyx=other_voxels),
        replace(scan, voxels_czyx=scan.voxels_czyx.reshape(1, 6, 5, 7)),
    ]
    infos = [
        local_archive.write_scan(replace(variant, name=f"v{i}"), source={})
        for i, variant in enumerate(variants)
    ]
    assert len({info.content_hash for info in infos}) == len(variants)


def test_the_content_hash_ignores_name_layout_and_memory_order(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    scan = make_scan()
    fortran = np.asfortranarray(scan.voxels_czyx).astype(">i2")
    one = local_archive.write_scan(scan, source={})
    layout = Layout((2, 2, 2), (4, 4, 4))
    two = local_archive.write_scan(
        replace(scan, name="two", voxels_czyx=fortran), source={}, layout=layout
    )
    assert one.content_hash == two.content_hash
    np.testing.assert_array_equal(local_archive["two"].image.compute(), scan.voxels_czyx)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint64", "float16", "float64"])
def test_every_real_type_is_stored(
    local_archive: Archive, make_scan: Callable[..., Scan], dtype: str
) -> None:
    voxels = (make_scan().voxels_czyx > 0).astype(dtype)
    info = local_archive.write_scan(replace(make_scan(), voxels_czyx=voxels), source={})
    assert info.dtype == ("uint8" if dtype == "bool" else dtype)
    np.testing.assert_array_equal(local_archive["ct-1"].image.compute(), voxels)


@pytest.mark.parametrize(
    "voxels", [np.zeros((2, 2, 2)), np.zeros((1, 0, 2, 2)), np.zeros((1, 2, 2, 2), complex)]
)
def test_voxels_that_are_no_scan_are_refused(
    local_archive: Archive, make_scan: Callable[..., Scan], voxels: Any
) -> None:
    with pytest.raises(ScanError, match="scan 'ct-1'"):
        local_archive.write_scan(replace(make_scan(), voxels_czyx=voxels), source={})


def test_channels_without_names_are_refused(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    with pytest.raises(ScanError, match="0 channel names for 1 channels"):
        local_archive.write_scan(replace(make_scan(), channels=()), source={})


@pytest.mark.parametrize("affine", [np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_an_unusable_affine_is_refused(
    local_archive: Archive, make_scan: Callable[..., Scan], affine: Any
) -> None:
    with pytest.raises(GeometryError, match="invertible 4x4 affine"):
        local_archive.write_scan(replace(make_scan(), affine=affine), source={})


def test_an_unsafe_id_writes_nothing(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    with pytest.raises(SpecError, match="Volume id"):
        local_archive.write_scan(make_scan("../outside"), source={})
    assert snapshot(local_archive).keys() == {"archive.json"}


def test_select_takes_globs_and_names(archive: Archive, make_scan: Callable[..., Scan]) -> None:
    for name in ("ct-1", "ct-2", "mr-1"):
        archive.write_scan(make_scan(name), source={})
    assert [info.id for info in archive.select(["mr-1", "ct-*"])] == ["ct-1", "ct-2", "mr-1"]
    assert [info.id for info in archive.select(["*-1"])] == ["ct-1", "mr-1"]
    assert archive.select(["pet-*"]) == []
    with pytest.raises(SpecError, match="no Volume 'pet-1'"):
        archive.select(["ct-*", "pet-1"])


def test_an_archive_may_be_begun_again(place: str, make_scan: Callable[..., Scan]) -> None:
    open_archive(place, create=True).write_scan(make_scan(), source={})
    assert list(open_archive(place, create=True)) == ["ct-1"]


def test_a_place_without_an_archive_says_how_to_begin_one(place: str) -> None:
    with pytest.raises(NotFoundError, match=r"no Archive at .* begin one with `unet-batch ingest"):
        open_archive(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "unet-batch archive", "version": 2}', "version 2, this program reads"),
        ('{"format": "other"}', "expected format"),
        ("[", "damaged"),
    ],
)
def test_a_foreign_or_newer_archive_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "archive.json").write_text(content)
    with pytest.raises(StoreError, match=message):
        open_archive(tmp_path)


def test_a_damaged_volume_is_named(local_archive: Archive, make_scan: Callable[..., Scan]) -> None:
    local_archive.write_scan(make_scan(), source={})
    (Path(local_archive.url) / "volumes/ct-1/zarr.json").write_text('{"attributes": {}}')
    with pytest.raises(StoreError, match=r"volumes/ct-1/zarr\.json has no attribute 'unet_batch'"):
        local_archive["ct-1"]


def test_an_archive_travels_as_its_address(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    archive.write_scan(make_scan(), source={})
    assert list(pickle.loads(pickle.dumps(archive))) == ["ct-1"]


def snapshot(archive: Archive) -> dict[str, bytes]:
    """Every object of the Archive."""
    store = open_store(archive.url)
    return {path: store.get(path) for path in store.list_objects("")}
