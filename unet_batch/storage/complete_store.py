"""CompleteStore: a store for zarr-python in which what must be stored and is not is an error.

zarr-python itself reads a missing chunk as background, silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore


class CompleteStore(WrapperStore[Store]):
    """`store`, where a missing object raises FileNotFoundError if `must_exist` says so."""

    def __init__(self, store: Store, must_exist: Callable[[str], bool]) -> None:
        super().__init__(store)
        self._must_exist = must_exist

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The object, or the bytes of it that are asked for; None where it may be missing."""
        buffer = await self._store.get(key, prototype, byte_range)
        if buffer is None and self._must_exist(key):
            raise FileNotFoundError(key)
        return buffer

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """The same for several objects."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
