"""Tasks that read and write small Volumes of a bucket: all at once, and each for itself."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet_batch.formats.scan import Scan
from unet_batch.inference import reading, writing
from unet_batch.inference.references import ArrayRef
from unet_batch.planning.volume_info import LabelClass
from unet_batch.side_by_side import MOST_AT_ONCE, each
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.bucket_store import BucketStore
from unet_batch.storage.labels_set import LabelsSet
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.stores import open_store
from unet_batch.tiling.box import Box

from ..crowd import Crowd

SHAPE = (6, 5, 4)
WHOLE = Box.from_shape(SHAPE)
NUMBER = 6


@pytest.fixture
def archive(s3_bucket: str) -> Archive:
    archive = open_archive(f"s3://{s3_bucket}/{uuid.uuid4().hex}", create=True)
    for number in range(NUMBER):
        voxels = np.full((1, *SHAPE), number, np.int16)
        archive.write_scan(Scan(f"v{number}", voxels, np.eye(4), ("CT",), "CT"), source={})
    return archive


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """Counts the requests to buckets that are under way at once."""
    crowd = Crowd()

    def count(name: str) -> None:
        request = getattr(BucketStore, name)

        def counted(*arguments: Any) -> Any:
            with crowd.inside():
                time.sleep(0.05)  # as long as a store far away takes
                return request(*arguments)

        monkeypatch.setattr(BucketStore, name, counted)

    for name in ("get_versioned", "put"):
        count(name)
    return crowd


def sets_of(archive: Archive) -> list[LabelsSet]:
    classes = (LabelClass(0, "background"), LabelClass(1, "organ"))
    writers = [
        LabelsWriter.for_volume(archive.url, info, name="net", classes=classes, key="k")
        for info in archive.select(["*"])
    ]
    return [LabelsSet("net", (writer,)) for writer in writers]


def test_small_volumes_are_read_at_once(archive: Archive, crowd: Crowd) -> None:
    work = [(archive[f"v{number}"], WHOLE) for number in range(NUMBER)]
    open_store(archive.url).delete_folder("volumes/v3")
    crowd.most = 0
    found = reading._read_each(work)
    assert crowd.most > NUMBER // 2
    for number, array in enumerate(found):
        if number == 3:
            assert isinstance(array, str)
            assert "missing" in array
        else:
            np.testing.assert_array_equal(array, np.full((1, *SHAPE), number))


def test_small_volumes_are_written_and_published_at_once(archive: Archive, crowd: Crowd) -> None:
    sets = sets_of(archive)
    crowd.most = 0
    arrays = [np.full((1, *SHAPE), number % 2, np.uint8) for number in range(NUMBER)]
    work = [(one, WHOLE, [(WHOLE, ArrayRef("all", k))]) for k, one in enumerate(sets)]
    at_once = writing._most_at_once(work)
    stored = each(partial(writing._write, values={"all": arrays}), work, at_once=at_once)
    assert all(isinstance(one, int) and one > 0 for one in stored)
    assert crowd.most > NUMBER // 2
    crowd.most = 0
    missing = replace(sets[0].writers[0], key="another")  # of which nothing is written
    publications: list[writing.Publication] = [(one, {"by": "test"}) for one in sets[1:]]
    failures = writing._publish_each([*publications, (LabelsSet("net", (missing,)), {})])
    assert list(failures) == ["v0"]
    assert "1 of 1 write regions are not stored" in failures["v0"]
    assert crowd.most > NUMBER // 2
    for number in range(1, NUMBER):
        labels = archive[f"v{number}"].labels["net"]
        np.testing.assert_array_equal(labels.array.compute(), arrays[number][0])


def test_large_regions_do_not_crowd_the_memory(archive: Archive) -> None:
    (one, *_) = sets_of(archive)
    large = Box((0, 0, 0), (512, 512, 256))
    assert writing._most_at_once([(one, large, [])]) == 2
    assert writing._most_at_once([(one, large, []), (one, WHOLE, [])]) == 2
    assert writing._most_at_once([(one, WHOLE, [])]) >= MOST_AT_ONCE


def test_on_a_disk_nobody_waits(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "archive", create=True)
    archive.write_scan(
        Scan("v0", np.zeros((1, *SHAPE), np.int16), np.eye(4), ("CT",), "CT"), source={}
    )
    (one,) = sets_of(archive)
    assert writing._most_at_once([(one, WHOLE, [])]) == 1
