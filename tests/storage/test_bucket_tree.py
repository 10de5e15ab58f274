"""Folders of a bucket as discovery sees them: odd keys are named, and little is asked for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from unet_batch.errors import SpecError, StoreError, UnreadableScanError
from unet_batch.formats.remote import RemotePath
from unet_batch.formats.walk import Walk
from unet_batch.storage.bucket_store import BucketStore
from unet_batch.storage.bucket_tree import locator
from unet_batch.storage.stores import open_store

from . import buckets
from .conftest import empty_place


@pytest.fixture
def place(tmp_path: Path, s3_bucket: str) -> str:
    for name in ("a.nii", "p1/b.nii", "p1/.hidden", "v.ome.zarr/zarr.json", "v.ome.zarr/0/c/0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    return buckets.uploaded(tmp_path, s3_bucket)


def found(place: str) -> tuple[list[str], tuple[str, ...]]:
    files = Walk(locate=locator()).find(place)
    return [str(path).removeprefix(f"{files.root}/") for path in files.files], files.notes


def test_a_bucket_is_walked_as_a_folder_is(place: str) -> None:
    assert found(place) == (["v.ome.zarr", "a.nii", "p1/b.nii"], ())
    assert found(f"{place}/p*/*.nii") == (["p1/b.nii"], ())
    assert found(f"{place}/a.nii")[0] == ["a.nii"]
    with pytest.raises(SpecError, match="no file, folder or match at 's3://"):
        found(f"{place}/missing")


@pytest.mark.parametrize(
    ("key", "name"),
    [("p1/b c%2F?.nii", "p1/b c%2F?.nii"), ("p1/ü#\\..\\x.nii", "p1/ü#\\..\\x.nii"),
     ("p1/*b'\".nii", "p1/*b'\".nii"), ("p1/empty/", "")],
)  # fmt: skip
def test_unusual_keys_are_files_like_others(place: str, key: str, name: str) -> None:
    buckets.put(place, key)
    files, notes = found(place)
    assert files == sorted(["v.ome.zarr", "a.nii", "p1/b.nii", *filter(None, [name])], key=_order)
    assert notes == ()


def _order(name: str) -> tuple[int, bool, str]:
    return name.count("/"), not name.endswith(".zarr"), name


@pytest.mark.parametrize("key", ["p2/../../b.nii", "p2/a//b.nii", "p2/./b.nii", "p2/.."])
def test_keys_that_are_no_paths_are_named_and_the_others_found(place: str, key: str) -> None:
    buckets.put(place, key)
    files, (note,) = found(place)
    assert files == ["v.ome.zarr", "a.nii", "p1/b.nii"]
    assert note.startswith(f"{place}/p2")
    assert note.endswith("rename the object")


def test_keys_that_begin_with_a_slash_are_named(s3_bucket: str) -> None:
    buckets.client().create_bucket(Bucket="slashes")
    buckets.client().put_object(Bucket="slashes", Key="/b.nii", Body=b"x")
    buckets.client().put_object(Bucket="slashes", Key="a.nii", Body=b"x")
    assert found("s3://slashes") == (
        ["a.nii"],
        ("s3://slashes: skipped, keys that begin with '/'",),
    )


def test_what_a_listing_lacks_is_not_asked_for(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    top = locator()(place)
    assert (top / "a.nii").is_file()
    monkeypatch.setattr(BucketStore, "list_children", _no_request)
    assert not any((top / name).exists() for name in ("b.nii", "x/b.nii", "x/y/b.nii"))
    with pytest.raises(StoreError, match="a request"):
        (top / "p1/b.nii").is_file()


def _no_request(*_: object) -> None:
    raise StoreError("a request")


def test_a_path_travels_with_what_is_known_of_it(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = [one for one in Walk(locate=locator()).find(place).files if one.name == "b.nii"]
    again = pickle.loads(pickle.dumps(path))
    monkeypatch.setattr(BucketStore, "list_children", _no_request)
    assert again == path
    assert again.facts.size == 5
    with again.open() as stream:
        assert stream.read() == b"12345"


@pytest.mark.parametrize("is_gone", [True, False])
def test_objects_that_went_or_changed_are_named(place: str, *, is_gone: bool) -> None:
    path = locator()(f"{place}/a.nii")
    assert isinstance(path, RemotePath)
    assert path.facts.size == 5
    if is_gone:
        open_store(place).delete("a.nii")
    else:
        buckets.put(place, "a.nii", b"other")
    with pytest.raises(UnreadableScanError, match=rf"{place}/a\.nii: cannot be fetched"):
        path.open().read()


def test_places_on_disk_are_paths(tmp_path: Path) -> None:
    assert locator()(str(tmp_path)) == tmp_path
    assert locator()(tmp_path.as_uri()) == tmp_path
    with pytest.raises(SpecError, match="unknown address ftp://"):
        locator()("ftp://host/x")


@pytest.mark.parametrize("kind", ["s3", "azure", "gcs"])
def test_each_cloud_is_listed_and_read_in_parts(kind: str, request: pytest.FixtureRequest) -> None:
    url = empty_place(kind, request)
    content = bytes(range(256)) * 200
    store = open_store(url)
    store.put("p1/a.dcm", content)
    store.put("p1/b/c.dcm", b"c")
    folder = locator()(f"{url}/p1")
    assert [path.name for path in folder.iterdir()] == ["b", "a.dcm"]
    with (folder / "a.dcm").open("rb") as stream:
        stream.seek(30_000)
        assert stream.read(300) == content[30_000:30_300]
