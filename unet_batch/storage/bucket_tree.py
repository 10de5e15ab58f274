"""BucketTree: folders and objects of a bucket, for the discovery of scans.

Folders are listed one by one, not the bucket as a whole: an OME-Zarr image of a million chunks
is left alone once its first document has been seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from obstore.exceptions import InvalidPathError
from typing_extensions import override

from unet_batch.errors import StoreError, UnreadableScanError
from unet_batch.formats.remote import (
    HEAD_BYTES,
    AnyPath,
    Entries,
    Locate,
    RemoteFacts,
    RemotePath,
    Tree,
    on_disk,
)
from unet_batch.storage.bucket_store import open_bucket
from unet_batch.storage.stores import normalize_url

MAX_HEADS = 4096
"""Heads of objects that are remembered: 64 MiB."""


class BucketTree(Tree):
    """The objects of one bucket (S3, GCS, Azure) as they are when each folder is first seen."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = open_bucket(url)
        self._entries: dict[str, Entries] = {}
        self._head = lru_cache(maxsize=MAX_HEADS)(self._read_head)

    @override
    def __reduce__(self) -> tuple[Callable[[str], BucketTree], tuple[str]]:
        return BucketTree, (self.url,)  # what was listed stays here

    @override
    def entries(self, folder: str) -> Entries:
        found = self._entries.get(folder)
        if found is None:
            found = Entries() if self._is_missing(folder) else self._list(folder)
            self._entries[folder] = found
        return found

    @override
    def listed(self, folder: str) -> Entries | None:
        return self._entries.get(folder)

    @override
    def notes(self, folder: str) -> tuple[str, ...]:
        inside = f"{folder}/" if folder else ""
        found = [one for key, one in sorted(self._entries.items()) if f"{key}/".startswith(inside)]
        return tuple(note for one in found for note in one.notes)

    @override
    def read(self, key: str, start: int, stop: int, version: str) -> bytes:
        try:
            return self._store.get_range(key, start, stop, version)
        except StoreError as error:
            raise UnreadableScanError(f"{self.url}/{key}: cannot be fetched: {error}") from error

    @override
    def head(self, key: str, version: str) -> bytes:
        return self._head(key, version)

    def _is_missing(self, folder: str) -> bool:
        """Whether a folder above was listed, and does not hold what leads to `folder`."""
        above, _, name = folder.rpartition("/")
        while above or name:
            if (found := self._entries.get(above)) is not None:
                return name not in found.folders
            above, _, name = above.rpartition("/")
        return False

    def _read_head(self, key: str, version: str) -> bytes:
        return self.read(key, 0, HEAD_BYTES, version)

    def _list(self, folder: str) -> Entries:
        where = f"{self.url}/{folder}".rstrip("/")
        try:
            folders, facts = self._store.list_children(folder)
        except StoreError as error:
            if not isinstance(error.__cause__, InvalidPathError):
                raise
            said = str(error.__cause__).splitlines()[0]
            return Entries(notes=(f"{where}: skipped, {said}; rename the object",))
        files = {name: RemoteFacts(one.size, one.version) for name, one in facts.items()}
        notes = () if "" not in folders else (f"{where}: skipped, keys that begin with '/'",)
        return Entries(tuple(filter(None, folders)), files, notes)


def locator() -> Locate:
    """What turns addresses into paths on disk or in a bucket; nothing is looked at yet.

    Paths of one bucket share one Tree. It raises SpecError for an address that cannot be.
    """
    trees: dict[str, BucketTree] = {}

    def find(place: str) -> AnyPath:
        if "://" not in place:
            return on_disk(place)
        url = normalize_url(place)
        if "://" not in url:
            return on_disk(url)
        parts = urlsplit(url)
        root = f"{parts.scheme}://{parts.netloc}"
        tree = trees.setdefault(root, BucketTree(root))
        return RemotePath(tree, url[len(root) :].strip("/"))

    return find
