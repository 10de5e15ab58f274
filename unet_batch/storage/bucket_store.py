"""BucketStore: objects of a bucket, or of this process's memory, through obstore.

Credentials come from the environment only (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions as obstore_errors
from obstore.store import MemoryStore, from_url
from typing_extensions import override
from zarr.abc.store import Store
from zarr.storage import ObjectStore as ZarrObjectStore

from unet_batch.errors import ConflictError, NotFoundError, StoreError
from unet_batch.storage.object_store import Facts, ObjectFacts, ObjectStore

if TYPE_CHECKING:
    from obstore import GetOptions, UpdateVersion

REMOTE_SCHEMES = ("s3", "gs", "az")
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "az": "AZURE_STORAGE_ENDPOINT"}
"""Variables that name another server than the cloud's own, by scheme."""


class BucketStore(ObjectStore):
    """Objects of a bucket (S3, GCS, Azure) or of this process's memory, through obstore."""

    def __init__(self, url: str, backend: Any) -> None:
        super().__init__(url)
        self._backend = backend

    @override
    def __reduce__(self) -> tuple[Callable[[str], ObjectStore], tuple[str]]:
        # By address: connections do not travel, and credentials must not.
        return open_bucket, (self.url,)

    @override
    def get_versioned(self, path: str) -> tuple[bytes, str]:
        with self._errors(path):
            result = obstore.get(self._backend, path)
            return bytes(result.bytes()), _token(result.meta["e_tag"], result.meta["version"])

    @override
    def put(self, path: str, content: bytes) -> None:
        with self._errors(path):
            obstore.put(self._backend, path, content)

    @override
    def put_if_absent(self, path: str, content: bytes, *, is_private: bool = False) -> None:
        del is_private  # a bucket's policy decides who reads
        with self._errors(path):
            obstore.put(self._backend, path, content, mode="create")

    @override
    def compare_and_swap(self, path: str, content: bytes, version: str) -> None:
        try:
            with self._errors(path):
                obstore.put(self._backend, path, content, mode=_expected(version))
        except NotFoundError as error:
            raise ConflictError(f"{self.url}/{path} was removed since it was read") from error

    @override
    def exists(self, path: str) -> bool:
        try:
            with self._errors(path):
                obstore.head(self._backend, path)
        except NotFoundError:
            return False
        return True

    @override
    def list_objects(self, prefix: str) -> list[str]:
        with self._errors(prefix):
            pages = obstore.list(self._backend, prefix or None, chunk_size=1000)
            return sorted(str(item["path"]) for page in pages for item in page)

    @override
    def list_facts(self, prefix: str) -> Facts:
        with self._errors(prefix):
            pages = obstore.list(self._backend, prefix or None, chunk_size=1000)
            items = [item for page in pages for item in page]
        return {str(item["path"]): _facts_of(item) for item in items}

    @override
    def get_tail(self, path: str, num_bytes: int) -> bytes:
        options: GetOptions = {"range": {"suffix": num_bytes}}
        with self._errors(path):
            try:
                return bytes(obstore.get(self._backend, path, options=options).bytes())
            except obstore_errors.NotSupportedError:  # by Azure
                size = obstore.head(self._backend, path)["size"]
                start = max(0, size - num_bytes)
                return bytes(obstore.get_range(self._backend, path, start=start, end=size))

    @override
    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if not ranges:
            return []
        starts, ends = zip(*ranges, strict=True)
        with self._errors(path):
            found = obstore.get_ranges(self._backend, path, starts=starts, ends=ends)
            return list(map(bytes, found))

    @property
    @override
    def is_far(self) -> bool:
        return self.url.partition("://")[0] in REMOTE_SCHEMES

    def get_range(self, path: str, start: int, stop: int, version: str = "") -> bytes:
        """Bytes `[start, stop)` of the object, fewer where it ends before.

        Raises NotFoundError, and ConflictError where it is no more of `version`: an ETag of S3,
        in quotes. Listings of other clouds hold none that can be compared.
        """
        options: GetOptions = {"range": (start, stop)}
        if version.startswith('"'):
            options["if_match"] = version
        with self._errors(path):
            return bytes(obstore.get(self._backend, path, options=options).bytes())

    def list_children(self, prefix: str) -> tuple[list[str], Facts]:
        """What lies directly in the folder `prefix`, sorted: names of folders, objects by name.

        A name is empty where keys begin with `/`: no path leads there. Raises StoreError, also
        where a key is no path (`a//b`, `a/../b`).
        """
        with self._errors(prefix):
            listing = obstore.list_with_delimiter(self._backend, prefix or None)
        names = sorted({str(path).rpartition("/")[2] for path in listing["common_prefixes"]})
        inside = [item for item in listing["objects"] if str(item["path"]) != prefix]  # a marker
        items = sorted(inside, key=lambda item: str(item["path"]))
        return names, {str(item["path"]).rpartition("/")[2]: _facts_of(item) for item in items}

    @override
    def list_folders(self, prefix: str) -> list[str]:
        with self._errors(prefix):
            listing = obstore.list_with_delimiter(self._backend, prefix or None)
            return sorted(str(path).rsplit("/", 1)[-1] for path in listing["common_prefixes"])

    @override
    def delete(self, path: str) -> None:
        try:
            with self._errors(path):
                obstore.delete(self._backend, path)
        except NotFoundError:
            return

    @override
    def delete_folder(self, prefix: str) -> None:
        """Remove every object below the folder `prefix`, a thousand with each request."""
        found = self.list_objects(prefix)
        with self._errors(prefix):
            if found:
                obstore.delete(self._backend, found)

    @cached_property
    @override
    def zarr_store(self) -> Store:
        return ZarrObjectStore(self._backend, read_only=True)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        where = f"{self.url}/{path}"
        try:
            yield
        except (FileNotFoundError, obstore_errors.NotFoundError) as error:
            raise NotFoundError(f"nothing is stored at {where}") from error
        except (obstore_errors.AlreadyExistsError, obstore_errors.PreconditionError) as error:
            raise ConflictError(f"{where}: another writer was first; read it again") from error
        except (obstore_errors.BaseError, OSError, ValueError) as error:
            raise StoreError(
                f"{where}: the store refused: {error}; check the address, the network and the "
                "credentials in the environment"
            ) from error


def open_bucket(url: str) -> BucketStore:
    """The store at `url` (memory://, s3://, gs://, az://); touches nothing yet."""
    variable = _ENDPOINTS.get(url.partition("://")[0], "")
    return _open_bucket(url, os.environ.get(variable, ""))


@lru_cache(maxsize=64)
def _open_bucket(url: str, endpoint: str) -> BucketStore:
    if url.startswith("memory://"):
        return BucketStore(url, MemoryStore())
    allow_http = endpoint.startswith("http://")
    try:
        backend = from_url(url, client_options={"allow_http": True} if allow_http else None)
    except (obstore_errors.BaseError, ValueError) as error:
        raise StoreError(f"{url} cannot be opened: {error}") from error
    return BucketStore(url, backend)


def _facts_of(item: Any) -> ObjectFacts:
    version = str(item["e_tag"] or item["last_modified"])
    return ObjectFacts(int(item["size"]), version, item["last_modified"].timestamp())


def _token(e_tag: str | None, version: str | None) -> str:
    """What names one state of an object: S3 and Azure compare the ETag, GCS the generation."""
    known = {"e_tag": e_tag, "version": version}
    return json.dumps({key: value for key, value in known.items() if value is not None})


def _expected(token: str) -> UpdateVersion:
    found: UpdateVersion = json.loads(token)
    return found
