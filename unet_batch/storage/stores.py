"""One small interface over local folders, memory and buckets: whole objects, atomic puts.

Everything an Archive does is built from seven operations on whole objects. A put is atomic
(a reader sees the old object or the new one), `put_if_absent` and `compare_and_swap` let
exactly one of several writers win. `tests/storage/test_stores.py` is the contract that
folders, memory and a real S3 server all pass.

Folders are written by this module itself (temporary file, then rename or link): obstore's
local store cannot compare and swap. All others go through obstore. Credentials come from
the environment only (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numcodecs.blosc
import obstore
import zarr
from obstore import exceptions as obstore_errors
from obstore.store import MemoryStore, from_url
from typing_extensions import override
from zarr.abc.store import Store
from zarr.storage import LocalStore
from zarr.storage import ObjectStore as ZarrObjectStore

from unet_batch.errors import ConflictError, NotFoundError, SpecError, StoreError

if TYPE_CHECKING:
    from obstore import UpdateVersion

REMOTE_SCHEMES = ("s3", "gs", "az")
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "az": "AZURE_STORAGE_ENDPOINT"}
"""Variables that name another server than the cloud's own, by scheme."""

_STAGED = re.compile(r"\..+\.[0-9a-f]{32}")  # as FolderStore names temporary files
MAX_SWAP_ATTEMPTS = 50
"""Lost races before `update` gives up: far more writers than ever share one object."""


class ObjectFacts(NamedTuple):
    """Bytes of an object, what changes when it is written anew, and when it was (Unix time)."""

    size: int
    version: str
    written_at_s: float


Facts = Mapping[str, ObjectFacts]
"""By path."""


class ObjectStore(ABC):
    """Whole objects under slash-separated paths relative to `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> bytes:
        """The object at `path`. Raises NotFoundError where there is none."""
        return self.get_versioned(path)[0]

    @abstractmethod
    def get_versioned(self, path: str) -> tuple[bytes, str]:
        """The object at `path` and a version that `compare_and_swap` accepts."""

    @abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Store `content` at `path`, in place of what may be there, atomically."""

    @abstractmethod
    def put_if_absent(self, path: str, content: bytes, *, is_private: bool = False) -> None:
        """Store `content` where nothing is yet. Raises ConflictError where something is.

        `is_private`: only the owner may read it, where the store knows owners (folders).
        """

    @abstractmethod
    def compare_and_swap(self, path: str, content: bytes, version: str) -> None:
        """Replace the object of `version`. Raises ConflictError where it changed or went."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether an object lies at `path`."""

    @abstractmethod
    def list_objects(self, prefix: str) -> list[str]:
        """Paths of all objects below the folder `prefix`, sorted; empty where it is missing."""

    @abstractmethod
    def list_facts(self, prefix: str) -> Facts:
        """The same objects with size, version (time of a file, ETag of an object) and age."""

    def list_unfinished(self, prefix: str) -> Facts:
        """Temporary files below the folder `prefix` that a writer uses, or left when it died."""
        del prefix
        return {}  # a bucket shows no object before it is whole

    @abstractmethod
    def list_folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below the folder `prefix`, sorted."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object at `path`; nothing happens where there is none."""

    @abstractmethod
    def delete_folder(self, prefix: str) -> None:
        """Remove every object below the folder `prefix`; nothing happens where it is missing."""

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace the object at `path` by `change(object or None)`; no writer's change is lost.

        `change` may be called again with what another writer stored meanwhile. Where it
        returns its argument nothing is written.
        """
        for _ in range(MAX_SWAP_ATTEMPTS):
            try:
                self._update_once(path, change)
            except ConflictError:
                continue
            return
        raise ConflictError(
            f"{self.url}/{path}: {MAX_SWAP_ATTEMPTS} attempts to update it were all overtaken "
            "by other writers; run again when fewer write to it"
        )

    def _update_once(self, path: str, change: Callable[[bytes | None], bytes]) -> None:
        try:
            old, version = self.get_versioned(path)
        except NotFoundError:
            self.put_if_absent(path, change(None))
            return
        new = change(old)
        if new != old:
            self.compare_and_swap(path, new, version)

    def __reduce__(self) -> tuple[Callable[[str], ObjectStore], tuple[str]]:
        # By address: connections do not travel, and credentials must not.
        return open_store, (self.url,)

    @property
    @abstractmethod
    def zarr_store(self) -> Store:
        """The same objects, read-only, for zarr-python."""


class FolderStore(ObjectStore):
    """Objects as files of a local or mounted folder.

    A name that begins with a dot is ours (temporary files, the lock) and never listed. A crash
    of the process leaves whole objects only; a power cut may lose what the system had not
    written back.
    """

    def __init__(self, url: str, root: Path) -> None:
        super().__init__(url)
        self.root = root

    @override
    def get_versioned(self, path: str) -> tuple[bytes, str]:
        with _folder_errors(self.root / path):
            content = (self.root / path).read_bytes()
        return content, _content_version(content)

    @override
    def get(self, path: str) -> bytes:
        with _folder_errors(self.root / path):
            return (self.root / path).read_bytes()

    @override
    def put(self, path: str, content: bytes) -> None:
        with _folder_errors(self.root / path), self._staged(path, content) as staged:
            staged.replace(self.root / path)

    @override
    def put_if_absent(self, path: str, content: bytes, *, is_private: bool = False) -> None:
        with _folder_errors(self.root / path), self._staged(path, content) as staged:
            if is_private:
                staged.chmod(0o600)
            (self.root / path).hardlink_to(staged)

    @override
    def compare_and_swap(self, path: str, content: bytes, version: str) -> None:
        with _folder_errors(self.root / path), self._lock():
            try:
                current = _content_version((self.root / path).read_bytes())
            except FileNotFoundError:
                current = "nothing"
            if current != version:
                raise ConflictError(
                    f"{self.root / path} changed since it was read; read it again and decide again"
                )
            self.put(path, content)

    @override
    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    @override
    def list_objects(self, prefix: str) -> list[str]:
        found: list[str] = []
        with _folder_errors(self.root / prefix):
            for folder, _, names in os.walk(self.root / prefix, onerror=_raise_unless_missing):
                relative = Path(folder).relative_to(self.root)
                found += [(relative / n).as_posix() for n in names if not n.startswith(".")]
        return sorted(found)

    @override
    def list_facts(self, prefix: str) -> Facts:
        return {path: self._facts(path) for path in self.list_objects(prefix)}

    @override
    def list_unfinished(self, prefix: str) -> Facts:
        root = self.root / prefix
        paths = (path.relative_to(self.root).as_posix() for path in root.rglob(".*"))
        found: dict[str, ObjectFacts] = {}
        for path in paths:
            if _STAGED.fullmatch(path.rpartition("/")[2]):
                with suppress(NotFoundError):  # its writer has just finished
                    found[path] = self._facts(path)
        return found

    def _facts(self, path: str) -> ObjectFacts:
        with _folder_errors(self.root / path):
            found = (self.root / path).stat()
        return ObjectFacts(found.st_size, str(found.st_mtime_ns), found.st_mtime)

    @override
    def list_folders(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        if not folder.is_dir():
            return []
        with _folder_errors(folder), os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))

    @override
    def delete(self, path: str) -> None:
        with _folder_errors(self.root / path):
            (self.root / path).unlink(missing_ok=True)

    @override
    def delete_folder(self, prefix: str) -> None:
        """Remove the folder `prefix` with all that is in it."""
        with _folder_errors(self.root / prefix):
            shutil.rmtree(self.root / prefix, ignore_errors=True)

    @cached_property
    @override
    def zarr_store(self) -> Store:
        return LocalStore(self.root, read_only=True)

    @contextmanager
    def _staged(self, path: str, content: bytes) -> Iterator[Path]:
        """A temporary file beside `path` that holds `content`; gone at the end."""
        target = self.root / path
        staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            try:
                staged.write_bytes(content)
            except FileNotFoundError:
                # Not Path.mkdir: it tries to make every folder twice.
                os.makedirs(target.parent, exist_ok=True)  # noqa: PTH103
                staged.write_bytes(content)
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the store's one lock; the system frees it when the process dies."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class BucketStore(ObjectStore):
    """Objects of a bucket (S3, GCS, Azure) or of this process's memory, through obstore."""

    def __init__(self, url: str, backend: Any) -> None:
        super().__init__(url)
        self._backend = backend

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
        return {
            str(item["path"]): ObjectFacts(
                int(item["size"]),
                str(item["e_tag"] or item["last_modified"]),
                item["last_modified"].timestamp(),
            )
            for item in items
        }

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


def normalize_url(url: str | Path) -> str:
    """`url` in the one form used everywhere: an absolute path, or `scheme://...`.

    A path stays valid in a worker whose current folder is another. Raises SpecError for an
    unknown scheme, and for credentials in the URL.
    """
    text = str(url).rstrip("/") or "/"
    parts = urlsplit(text)
    if parts.scheme == "file":
        return os.path.abspath(unquote(parts.path))  # noqa: PTH100  (no look at the disk)
    if "://" not in text:
        return os.path.abspath(Path(text).expanduser())  # noqa: PTH100
    if parts.scheme not in (*REMOTE_SCHEMES, "memory"):
        raise SpecError(
            f"unknown address {parts.scheme}://...: expected a path, file://, memory://, "
            + ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
        )
    if parts.username or parts.password or parts.query:
        raise SpecError(
            f"{parts.scheme}://{parts.hostname}: credentials and options do not belong in an "
            "address; set them in the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    return text


def open_store(url: str | Path) -> ObjectStore:
    """The store at `url` (path, file://, memory://, s3://, gs://, az://); touches nothing yet.

    A process holds one store for each address; `memory://name` lives as long as the process.
    """
    url = normalize_url(url)
    variable = _ENDPOINTS.get(url.partition("://")[0], "")
    return _open_store(url, os.environ.get(variable, ""))


@lru_cache(maxsize=64)
def _open_store(url: str, endpoint: str) -> ObjectStore:
    if "://" not in url:
        return FolderStore(url, Path(url))
    if url.startswith("memory://"):
        return BucketStore(url, MemoryStore())
    allow_http = endpoint.startswith("http://")
    try:
        backend = from_url(url, client_options={"allow_http": True} if allow_http else None)
    except (obstore_errors.BaseError, ValueError) as error:
        raise StoreError(f"{url} cannot be opened: {error}") from error
    return BucketStore(url, backend)


def limit_zarr_threads(num_threads: int = 1) -> None:
    """Let zarr-python use `num_threads` threads in this process.

    For workers that share a machine: its defaults are 10 concurrent requests and unlimited
    threads a process.
    """
    zarr.config.set({"async.concurrency": num_threads, "threading.max_workers": num_threads})
    numcodecs.blosc.set_nthreads(num_threads)


def _token(e_tag: str | None, version: str | None) -> str:
    """What names one state of an object: S3 and Azure compare the ETag, GCS the generation."""
    known = {"e_tag": e_tag, "version": version}
    return json.dumps({key: value for key, value in known.items() if value is not None})


def _expected(token: str) -> UpdateVersion:
    found: UpdateVersion = json.loads(token)
    return found


def _content_version(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _raise_unless_missing(error: OSError) -> None:
    """For os.walk, which by itself takes a folder that it cannot read for an empty one."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _folder_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"nothing is stored at {path}") from error
    except FileExistsError as error:
        raise ConflictError(f"{path}: another writer was first; read it again") from error
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror or error}; check permissions, free space and the mount"
        ) from error
