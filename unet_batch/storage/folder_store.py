"""FolderStore: objects as files, each a temporary file first, then a rename or a link.

obstore's local store cannot compare and swap, so folders are written by this module itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from pathlib import Path

from typing_extensions import override
from zarr.abc.store import Store
from zarr.storage import LocalStore

from unet_batch.errors import ConflictError, NotFoundError, StoreError
from unet_batch.storage.object_store import Facts, ObjectFacts, ObjectStore

_STAGED = re.compile(r"\..+\.[0-9a-f]{32}")  # as FolderStore names temporary files


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
    def __reduce__(self) -> tuple[Callable[[str], ObjectStore], tuple[str]]:
        return open_folder, (self.url,)

    @override
    def get_versioned(self, path: str) -> tuple[bytes, str]:
        content = self.get(path)
        return content, _content_version(content)

    @override
    def get(self, path: str) -> bytes:
        target = self._target(path)
        with _folder_errors(target), open(target, "rb") as file:  # noqa: PTH123
            return file.read()

    @override
    def get_tail(self, path: str, num_bytes: int) -> bytes:
        target = self._target(path)
        with _folder_errors(target), open(target, "rb", buffering=0) as file:  # noqa: PTH123
            file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
            return file.readall()

    @override
    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        target = self._target(path)
        with _folder_errors(target), open(target, "rb", buffering=0) as file:  # noqa: PTH123
            return [os.pread(file.fileno(), stop - start, start) for start, stop in ranges]

    @override
    def put(self, path: str, content: bytes) -> None:
        target = self._target(path)
        with _folder_errors(target), _staged(target, content) as staged:
            os.replace(staged, target)  # noqa: PTH105

    @override
    def put_if_absent(self, path: str, content: bytes, *, is_private: bool = False) -> None:
        target = self._target(path)
        mode = 0o600 if is_private else 0o666
        with _folder_errors(target), _staged(target, content, mode=mode) as staged:
            os.link(staged, target)
            os.unlink(staged)  # noqa: PTH108

    @override
    def compare_and_swap(self, path: str, content: bytes, version: str) -> None:
        target = self._target(path)
        with _folder_errors(target), self._lock():
            try:
                current = self.get_versioned(path)[1]
            except NotFoundError:
                current = "nothing"
            if current != version:
                raise ConflictError(
                    f"{target} changed since it was read; read it again and decide again"
                )
            self.put(path, content)

    @override
    def exists(self, path: str) -> bool:
        return os.path.isfile(self._target(path))  # noqa: PTH113

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

    def _target(self, path: str) -> str:
        return f"{self.root}/{path}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the store's one lock; the system frees it when the process dies."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextmanager
def _staged(target: str, content: bytes, *, mode: int = 0o666) -> Iterator[str]:
    """A temporary file beside `target` that holds `content`; gone should it not be moved there.

    Plain calls of the system: a small scan is four such files, and Path takes as long as they do.
    """
    folder, _, name = target.rpartition("/")
    staged = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        try:
            _write_new(staged, content, mode)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            _write_new(staged, content, mode)
        yield staged
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(staged)  # noqa: PTH108
        raise


def _write_new(path: str, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]


@lru_cache(maxsize=64)
def open_folder(url: str) -> FolderStore:
    """The store of the folder `url`, an absolute path; touches nothing yet."""
    return FolderStore(url, Path(url))


def _content_version(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _raise_unless_missing(error: OSError) -> None:
    """For os.walk, which by itself takes a folder that it cannot read for an empty one."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _folder_errors(path: Path | str) -> Iterator[None]:
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
