"""ObjectStore: the operations on whole objects that everything an Archive does is built from.

A put is atomic (a reader sees the old object or the new one), `put_if_absent` and
`compare_and_swap` let exactly one of several writers win. `tests/storage/test_stores.py` is
the contract that all stores pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from zarr.abc.store import Store

from unet_batch.errors import ConflictError, NotFoundError

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
    def get_tail(self, path: str, num_bytes: int) -> bytes:
        """The last bytes of the object, all where it has fewer. Raises NotFoundError."""

    @abstractmethod
    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes `[start, stop)` of the object for each range; neighbours are fetched together.

        Raises NotFoundError. Where the object ends within a range the store may refuse, or return
        fewer bytes.
        """

    @property
    def is_far(self) -> bool:
        """Whether each answer is waited for: a bucket, not this machine."""
        return False

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

    @property
    @abstractmethod
    def zarr_store(self) -> Store:
        """The same objects, read-only, for zarr-python."""
