"""Scans of a bucket on a worker's disk: while they are read, nowhere else, and not too much."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_batch.errors import UnreadableScanError
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.discovery import ScanSource, discover
from unet_batch.formats.itk import write_nrrd
from unet_batch.formats.remote import RemotePath
from unet_batch.formats.scan import Scan
from unet_batch.storage import staging
from unet_batch.storage.bucket_tree import BucketTree, locator
from unet_batch.storage.staging import staged, sweep

from . import buckets

GIB = 2**30


@pytest.fixture(autouse=True)
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files, which every test leaves as it was: empty."""
    folder = tmp_path / "rooms"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder


def scans_of(sources: Path, bucket: str, **options: object) -> tuple[ScanSource, ...]:
    return discover([buckets.uploaded(sources, bucket)], locate=locator(), **options).scans  # type: ignore[arg-type]


def grey(path: Path, shape: tuple[int, ...] = (2, 3, 4)) -> Path:
    write_nrrd(path, np.arange(np.prod(shape), dtype=np.int16).reshape(shape), np.eye(4))
    return path


def test_a_scan_lies_here_while_it_is_read(sources: Path, s3_bucket: str, rooms: Path) -> None:
    grey(sources / "a.nrrd")
    (source,) = scans_of(sources, s3_bucket)
    with staged(source, max_bytes=GIB) as stage:
        (path,) = stage.source.paths
        assert isinstance(path, Path)
        assert path.is_relative_to(rooms)
        assert (rooms / path.relative_to(rooms).parts[0]).stat().st_mode & 0o077 == 0
        assert np.array_equal(stage.source.read().voxels_czyx.ravel(), np.arange(24))
        assert stage.told(f"{path}: odd") == f"{source.paths[0]}: odd"
    assert not list(rooms.iterdir())


def test_too_large_a_scan_is_refused_with_numbers_before_anything_is_fetched(
    sources: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = grey(sources / "a.nrrd").stat().st_size
    (source,) = scans_of(sources, s3_bucket)
    fetched: list[str] = []
    monkeypatch.setattr(staging, "_fetch", fetched.append)
    where = rf"{source.paths[0]}: this scan is {size} bytes of objects, `staging` allows {size - 1}"
    with pytest.raises(UnreadableScanError, match=where), staged(source, max_bytes=size - 1):
        pass
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5}))
    with pytest.raises(UnreadableScanError, match="has 5 bytes free; set TMPDIR"):  # noqa: SIM117
        with staged(source, max_bytes=GIB):
            pass
    assert not fetched


@pytest.mark.parametrize("error", [UnreadableScanError, KeyboardInterrupt, MemoryError])
def test_nothing_stays_after_a_failure(
    sources: Path, s3_bucket: str, rooms: Path, error: type[BaseException]
) -> None:
    grey(sources / "a.nrrd")
    (source,) = scans_of(sources, s3_bucket)
    with pytest.raises(error), staged(source, max_bytes=GIB):
        raise error
    assert not list(rooms.iterdir())


def test_an_object_that_went_is_named_and_nothing_stays(
    sources: Path, s3_bucket: str, rooms: Path
) -> None:
    grey(sources / "a.nrrd")
    (source,) = scans_of(sources, s3_bucket)
    path = source.paths[0]
    assert isinstance(path, RemotePath)
    assert isinstance(path.tree, BucketTree)
    path.tree._store.delete(path.key)
    with pytest.raises(UnreadableScanError, match=f"{path}: cannot be fetched"):  # noqa: SIM117
        with staged(source, max_bytes=GIB):
            pass
    assert not list(rooms.iterdir())


_HOLD = """
import sys, tempfile
from unet_batch.storage.staging import _own_folder
tempfile.tempdir = sys.argv[1]
with _own_folder() as folder:
    (folder / "scan.dcm").write_bytes(b"x")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def worker(rooms: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _HOLD, str(rooms)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_what_a_killed_worker_left_is_removed_and_no_more(
    worker: subprocess.Popen[str], rooms: Path
) -> None:
    sweep()
    assert len(list(rooms.rglob("scan.dcm"))) == 1, "it is in use"
    worker.kill()
    worker.wait()
    sweep()
    assert not list(rooms.iterdir())


@pytest.mark.parametrize("name", ["x\\..\\..\\x.nrrd", "*?'\" %2e%2f.nrrd", "n" * 250 + "ü.nrrd"])
def test_whatever_a_key_is_its_file_stays_in_the_room(
    sources: Path, s3_bucket: str, rooms: Path, name: str
) -> None:
    content = grey(sources / "a.nrrd").read_bytes()
    place = buckets.uploaded(sources, s3_bucket)
    buckets.put(place, f"b/{name}", content)
    odd, _ = sorted(discover([place], locate=locator()).scans, key=lambda one: one.folder)[::-1]
    with staged(odd, max_bytes=GIB) as stage:
        (path,) = stage.source.paths
        assert isinstance(path, Path)
        assert path.resolve().is_relative_to(rooms.resolve())
        assert stage.source.read().voxels_czyx.size == 24
        assert stage.told(str(path)) == f"{place}/b/{name}"


def test_the_data_file_of_a_header_comes_along(sources: Path, s3_bucket: str) -> None:
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\n"
    (sources / "a.mhd").write_text(f"{header}ElementDataFile = a.raw\n")
    (sources / "a.raw").write_bytes(np.arange(24, dtype="<i2").tobytes())
    (sources / "b.mhd").write_text(f"{header}ElementDataFile = ../a.raw\n")
    a, b = scans_of(sources, s3_bucket)
    with staged(a, max_bytes=GIB) as stage:
        assert np.array_equal(stage.source.read().voxels_czyx.ravel(), np.arange(24))
    with staged(b, max_bytes=GIB) as stage, pytest.raises(UnreadableScanError, match="same folder"):
        stage.source.read()


def test_of_a_zip_little_more_than_the_members_is_fetched(
    sources: Path, s3_bucket: str, tmp_path: Path
) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    series = write_dicom_series(tmp_path / "ct", Scan("s", voxels, np.eye(4), ("CT",), "CT"))
    with zipfile.ZipFile(sources / "z.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("noise.bin", np.random.default_rng(0).bytes(3 * 2**20))
        for path in series:
            packed.write(path, f"ct/{path.name}")
        packed.writestr("more.bin", np.random.default_rng(1).bytes(3 * 2**20))
    (source,) = scans_of(sources, s3_bucket)
    with staged(source, max_bytes=2**20) as stage:
        found = stage.source.read().voxels_czyx
    assert np.array_equal(found, voxels[:, ::-1]), "a left-handed grid reads back turned over"


def test_folders_of_masks_come_along(sources: Path, s3_bucket: str) -> None:
    (sources / "masks/p").mkdir(parents=True)
    for number in range(2):
        drawn = np.zeros((4, 5), np.uint8)
        drawn[number, number] = 255
        Image.fromarray(drawn).save(sources / f"masks/p/{number}.png")
    Image.fromarray(np.full((4, 5), 9, np.uint8)).save(sources / "p.png")
    place = buckets.uploaded(sources, s3_bucket)
    found = discover([f"{place}/p.png"], truth={"r": f"{place}/masks"}, locate=locator())
    with staged(found.scans[0], max_bytes=GIB) as stage:
        masks = stage.source.read_truth(stage.source.read())
        assert masks["r"].voxels_zyx.sum() == 2


def test_what_lies_on_disk_is_left_where_it_is(sources: Path, rooms: Path) -> None:
    grey(sources / "a.nrrd")
    (source,) = discover([sources]).scans
    with staged(source, max_bytes=1) as stage:
        assert stage.source is source
    assert not list(rooms.iterdir())
