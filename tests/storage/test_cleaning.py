"""Leftovers are found by age, and what is published or young is never removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive
from unet_batch.storage.folder_store import FolderStore, _staged
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store

CLASSES = (LabelClass(1, "organ"),)


@pytest.fixture
def store(archive: Archive, make_scan: Callable[..., Scan]) -> ObjectStore:
    """An Archive of one Volume with published Labels, and one leftover of each kind."""
    scan = make_scan("a")
    info = archive.write_scan(scan, source={})
    mask = Mask(np.ones(scan.voxels_czyx.shape[1:], np.uint8), scan.affine, CLASSES)
    archive["a"].write_labels("m", mask, provenance={})
    for name, key in (("m", "older"), ("never", "begun")):
        writer = LabelsWriter.for_volume(archive.url, info, name=name, classes=CLASSES, key=key)
        writer.prepare()
        writer.write(writer.write_regions()[0], mask.voxels_zyx)
    store = open_store(archive.url)
    store.put("volumes/a/0-0123456789abcdef/c.0.0.0.0", b"other")
    store.put("volumes/b/0-0123456789abcdef/c.0.0.0.0", b"never published")
    return store


LEFT = [
    "volumes/a/0-0123456789abcdef",
    "volumes/a/labels/m/older",
    "volumes/a/labels/never/begun",
    "volumes/b/0-0123456789abcdef",
]


def test_leftovers_go_and_all_that_is_published_stays(archive: Archive, store: ObjectStore) -> None:
    before = archive["a"].stored[:], archive["a"].labels["m"].stored[:]
    cleaner = archive.cleaner(grace_s=-1)
    found = list(cleaner.find())
    assert [one.path for one in found] == LEFT
    assert found[1].num_objects == 2
    assert all(cleaner.remove(one) for one in found)
    assert list(cleaner.find()) == []
    assert not [p for p in store.list_objects("") if any(left in p for left in LEFT)]
    assert np.array_equal(archive["a"].stored[:], before[0])
    assert np.array_equal(archive["a"].labels["m"].stored[:], before[1])


def test_what_is_young_may_be_in_the_making(archive: Archive, store: ObjectStore) -> None:
    assert list(archive.cleaner().find()) == []


def test_what_was_published_meanwhile_is_not_removed(archive: Archive, store: ObjectStore) -> None:
    cleaner = archive.cleaner(grace_s=-1)
    found = {one.path: one for one in cleaner.find()}
    info = archive.info("a")
    writer = LabelsWriter.for_volume(archive.url, info, name="never", classes=CLASSES, key="begun")
    writer.publish({})
    assert not cleaner.remove(found["volumes/a/labels/never/begun"])
    assert archive["a"].labels["never"].stored[:].all()


def test_temporary_files_of_a_folder_are_found(local_archive: Archive) -> None:
    root = Path(local_archive.url)
    (root / "catalog").mkdir(exist_ok=True)
    left = root / "catalog" / f".x.parquet.{'0' * 32}"
    left.write_bytes(b"half")
    (root / ".lock").touch()
    cleaner = local_archive.cleaner(grace_s=-1)
    (found,) = cleaner.find()
    assert (found.path, found.num_bytes) == (left.relative_to(root).as_posix(), 4)
    assert cleaner.remove(found)
    assert sorted(p.name for p in root.iterdir()) == [".lock", "archive.json", "catalog"]


def test_names_of_temporary_files_are_those_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(str(tmp_path), tmp_path)
    with _staged(f"{store.root}/a/b", b"content") as staged:
        assert list(store.list_unfinished("")) == [Path(staged).relative_to(tmp_path).as_posix()]
