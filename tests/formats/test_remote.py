"""Paths of a bucket: the same answers as pathlib gives for a disk."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from unet_batch.formats.remote import (
    HEAD_BYTES,
    Entries,
    RemoteFacts,
    RemotePath,
    Tree,
    below,
    each,
    on_disk,
)

KEYS = ("a.nii", "p1/ct/0.dcm", "p1/ct/1.dcm", "p2/ct/0.dcm", "v.zarr/zarr.json", "v.zarr/0/c")


class Shelf(Tree):
    """A Tree of a mapping."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.url, self.objects, self.fetched = "s3://shelf", objects, list[tuple[int, int]]()

    @override
    def entries(self, folder: str) -> Entries:
        inside = [PurePosixPath(key) for key in self.objects if _is_in(key, folder)]
        depth = len(PurePosixPath(folder).parts)
        names = {path.parts[depth] for path in inside if len(path.parts) > depth + 1}
        files = {p.name: RemoteFacts(len(self.objects[str(p)]), "1")
                 for p in inside if len(p.parts) == depth + 1}  # fmt: skip
        return Entries(tuple(sorted(names)), files)

    @override
    def listed(self, folder: str) -> Entries | None:
        return self.entries(folder)

    @override
    def notes(self, folder: str) -> tuple[str, ...]:
        return ()

    @override
    def read(self, key: str, start: int, stop: int, version: str) -> bytes:
        self.fetched.append((start, stop))
        return self.objects[key][start:stop]

    @override
    def head(self, key: str, version: str) -> bytes:
        return self.read(key, 0, HEAD_BYTES, version)


def _is_in(key: str, folder: str) -> bool:
    return key.startswith(f"{folder}/") if folder else True


@pytest.fixture
def top() -> RemotePath:
    return RemotePath(Shelf(dict.fromkeys(KEYS, b"x")), "")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    for key in KEYS:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("place", ["", "p1", "p1/ct", "p1/ct/0.dcm", "p1/x", "a.nii/b", "v.zarr"])
def test_it_answers_as_a_disk_does(top: RemotePath, disk: Path, place: str) -> None:
    remote, local = (top / place if place else top), disk / place
    assert (remote.is_file(), remote.is_dir()) == (local.is_file(), local.is_dir())
    assert remote.exists() == local.exists()
    if local.is_dir():
        inside = sorted(p.name for p in local.iterdir())
        assert sorted(p.name for p in remote.iterdir()) == inside
    if place:
        assert (remote.name, remote.suffix, remote.stem) == (local.name, local.suffix, local.stem)
        assert [str(below(remote, one)) for one in (top, remote, remote.parent)] == [
            str(below(local, one)) for one in (disk, local, local.parent)
        ]


@pytest.mark.parametrize("pattern", ["*.nii", "p*/ct/*", "p*/*", "**/0.dcm", "p[2]/**/*.dcm"])
def test_patterns_match_as_on_a_disk(top: RemotePath, disk: Path, pattern: str) -> None:
    found = sorted(str(below(path, top)) for path in top.glob(pattern))
    assert found == sorted(str(below(path, disk)) for path in disk.glob(pattern))
    assert found


def test_what_the_caller_takes_out_is_not_walked(top: RemotePath) -> None:
    seen = []
    for folder, subfolders, names in top.walk():
        subfolders[:] = [name for name in subfolders if not name.endswith(".zarr")]
        seen += [str(folder / name) for name in names]
    assert seen == [f"s3://shelf/{key}" for key in KEYS[:4]]


def test_paths_of_other_buckets_are_elsewhere(top: RemotePath) -> None:
    other = Shelf({"p1": b""})
    other.url = "s3://shelf2"
    assert below(RemotePath(other, "p1"), top) is None
    assert below(top / "p10", top / "p1") is None
    assert below(on_disk("/x/y"), top) is None


@given(
    size=st.integers(0, 3 * HEAD_BYTES),
    moves=st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 50_000)), max_size=12),
)
def test_a_stream_reads_as_bytes_in_memory(size: int, moves: list[tuple[int, int]]) -> None:
    content = bytes(range(256)) * (size // 256) + b"." * (size % 256)
    remote: Any = RemotePath(Shelf({"o": content}), "o").open()
    memory: Any = io.BytesIO(content)
    for whence, number in moves:
        back = number if whence == 0 else -min(number, 99)
        at = min(max(0, memory.seek(0, whence) + back), size)
        assert [one.seek(at) for one in (remote, memory)] == [at, at]
        assert remote.read(number % 999) == memory.read(number % 999)
    assert remote.read() == memory.read()


def test_little_is_fetched_of_an_object_that_is_looked_at() -> None:
    shelf = Shelf({"o": bytes(10 * HEAD_BYTES)})
    with RemotePath(shelf, "o").open() as stream:
        stream.seek(128)
        assert len(stream.read(4)) == 4
    assert sum(stop - start for start, stop in shelf.fetched) <= HEAD_BYTES + 128
    with RemotePath(shelf, "o").open() as stream:
        assert len(stream.read()) == 10 * HEAD_BYTES
    assert len(shelf.fetched) < 6, "what is read on and on comes in larger pieces"


def test_work_on_many_keeps_their_order() -> None:
    assert each(lambda n: n * n, range(100)) == [n * n for n in range(100)]
    assert each(str, [1, 2], at_once=False) == ["1", "2"]
