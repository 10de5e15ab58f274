"""The contract of every store, run on a folder, on memory and on a real S3 server."""

from __future__ import annotations

import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zarr

from unet_batch.errors import ConflictError, NotFoundError, SpecError, StoreError
from unet_batch.storage.bucket_store import BucketStore
from unet_batch.storage.folder_store import FolderStore
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import limit_zarr_threads, normalize_url, open_store


def test_what_was_put_is_got_back(store: ObjectStore) -> None:
    store.put("a/b/object", b"first")
    store.put("a/b/object", b"second")
    assert store.get("a/b/object") == b"second"
    assert store.get_versioned("a/b/object")[0] == b"second"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.exists("empty")
    assert store.get("empty") == b""


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError, match="no/such/object"):
        store.get("no/such/object")
    assert not store.exists("no/such/object")


def test_put_if_absent_lets_the_first_writer_win(store: ObjectStore) -> None:
    store.put_if_absent("a/once", b"first")
    with pytest.raises(ConflictError, match="a/once"):
        store.put_if_absent("a/once", b"second")
    assert store.get("a/once") == b"first"


def test_compare_and_swap_refuses_a_stale_version(store: ObjectStore) -> None:
    store.put("counter", b"1")
    _, version = store.get_versioned("counter")
    store.compare_and_swap("counter", b"2", version)
    with pytest.raises(ConflictError, match="counter"):
        store.compare_and_swap("counter", b"3", version)
    assert store.get("counter") == b"2"


def test_compare_and_swap_refuses_a_removed_object(store: ObjectStore) -> None:
    store.put("counter", b"1")
    _, version = store.get_versioned("counter")
    store.delete("counter")
    with pytest.raises(ConflictError, match="counter"):
        store.compare_and_swap("counter", b"2", version)
    assert not store.exists("counter")


def test_parts_of_an_object(store: ObjectStore) -> None:
    store.put("a/b", bytes(range(100)))
    assert store.get_tail("a/b", 3) == bytes([97, 98, 99])
    assert store.get_tail("a/b", 1000) == bytes(range(100))
    ranges = [(90, 100), (0, 2), (2, 5), (50, 51)]
    assert store.get_ranges("a/b", ranges) == [bytes(range(*one)) for one in ranges]
    assert store.get_ranges("a/b", []) == []
    for read in (lambda: store.get_tail("a/c", 3), lambda: store.get_ranges("a/c", ranges)):
        with pytest.raises(NotFoundError, match="a/c"):
            read()


def test_concurrent_updates_lose_no_change(store: ObjectStore) -> None:
    def add(letter: str) -> None:
        store.update("names", lambda old: (old or b"") + letter.encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, "abcdefghijkl"))
    assert sorted(store.get("names").decode()) == list("abcdefghijkl")


def test_of_concurrent_first_writers_exactly_one_wins(store: ObjectStore) -> None:
    def write(number: int) -> int:
        try:
            store.put_if_absent("first", b"%d" % number)
        except ConflictError:
            return 0
        return 1

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(12))) == 1


def test_an_update_without_change_writes_nothing(store: ObjectStore) -> None:
    store.put("same", b"x")
    _, version = store.get_versioned("same")
    store.update("same", lambda old: old or b"")
    assert store.get_versioned("same")[1] == version


def test_an_update_that_is_always_overtaken_gives_up(store: ObjectStore) -> None:
    def overtaken(old: bytes | None) -> bytes:
        store.put("busy", (old or b"") + b"other")
        return b"mine"

    with pytest.raises(ConflictError, match="overtaken"):
        store.update("busy", overtaken)
    assert b"mine" not in store.get("busy")


def test_listing_sees_all_below_a_folder_and_nothing_beside_it(store: ObjectStore) -> None:
    for path in ("v/a/zarr.json", "v/a/c/0", "v/b/zarr.json", "vv/x", "top"):
        store.put(path, b"x")
    assert store.list_objects("v") == ["v/a/c/0", "v/a/zarr.json", "v/b/zarr.json"]
    assert store.list_folders("v") == ["a", "b"]
    assert store.list_folders("") == ["v", "vv"]
    assert store.list_objects("missing") == []
    assert store.list_folders("missing") == []


def test_delete_removes_and_may_be_repeated(store: ObjectStore) -> None:
    store.put("gone", b"x")
    store.delete("gone")
    store.delete("gone")
    assert not store.exists("gone")


def test_delete_folder_spares_its_neighbours(store: ObjectStore) -> None:
    for path in ("v/a/1", "v/a/c/2", "v/ab/3"):
        store.put(path, b"x")
    store.delete_folder("v/a")
    store.delete_folder("v/missing")
    assert store.list_objects("v") == ["v/ab/3"]


def test_zarr_reads_what_the_store_holds(store: ObjectStore) -> None:
    document = zarr.create_array({}, shape=(2,), chunks=(2,), dtype="u1", compressors=None)
    store.put("x/zarr.json", document.metadata.to_buffer_dict(_prototype())["zarr.json"].to_bytes())
    store.put("x/c/0", bytes([7, 8]))
    array = zarr.open_array(store=store.zarr_store, path="x", mode="r")
    assert array[:].tolist() == [7, 8]


def test_a_store_travels_as_its_address(store: ObjectStore) -> None:
    store.put("a", b"x")
    pickled = pickle.dumps(store)
    assert pickle.loads(pickled).get("a") == b"x"
    assert b"secret" not in pickled


def test_a_folder_lists_neither_temporary_files_nor_its_lock(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path), tmp_path)
    store.put("a", b"1")
    store.compare_and_swap("a", b"2", store.get_versioned("a")[1])
    (tmp_path / ".a.left-by-a-crash").write_bytes(b"half")
    assert store.list_objects("") == ["a"]


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(tmp_path: Path) -> None:
    (tmp_path / "catalog").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreError, match="Not a directory"):
        open_store(tmp_path).list_objects("catalog")


def test_a_put_that_fails_leaves_the_old_object_and_no_litter(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path), tmp_path)
    store.put("a", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # bytes: it stops halfway
    try:
        with pytest.raises(StoreError, match=r"a: File too large; check"):
            store.put("a", b"new" * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert store.get("a") == b"old"


def test_an_unreachable_bucket_says_what_to_check(s3_bucket: str) -> None:
    with pytest.raises((StoreError, NotFoundError), match="no-such-bucket/x"):
        open_store("s3://no-such-bucket/x").put("a", b"")


@pytest.mark.parametrize(
    ("url", "kind", "environment"),
    [
        ("gs://bucket/archive", "GCSStore", {}),
        ("az://container/archive", "AzureStore", {"AZURE_STORAGE_ACCOUNT_NAME": "account"}),
        ("s3://bucket/archive", "S3Store", {"AWS_REGION": "eu-central-1"}),
    ],
)
def test_every_cloud_opens_by_its_url_with_credentials_from_the_environment(
    url: str, kind: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(url)
    assert isinstance(store, BucketStore)
    assert type(store._backend).__name__ == kind
    assert store._backend.prefix == "archive"
    assert pickle.loads(pickle.dumps(store)).url == url


@pytest.mark.parametrize("url", ["ftp://host/x", "http://host/x", "s3://key:secret@bucket/x"])
def test_other_addresses_are_refused_without_repeating_a_secret(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_one_place_has_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "a b")
    for url in ("a b", Path("a b"), f"{tmp_path}/a b/", f"file://{tmp_path}/a%20b"):
        assert normalize_url(url) == expected
    assert normalize_url("s3://bucket/x/") == "s3://bucket/x"


def test_threads_of_zarr_can_be_limited() -> None:
    before = {key: zarr.config.get(key) for key in ("async.concurrency", "threading.max_workers")}
    try:
        limit_zarr_threads(1)
        assert zarr.config.get("async.concurrency") == 1
        assert zarr.config.get("threading.max_workers") == 1
    finally:
        zarr.config.set(before)


def _prototype() -> object:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype()
