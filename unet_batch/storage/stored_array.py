"""StoredArray: one Zarr array by its address, read lazily, told from a damaged one.

It is what Dask holds and what travels to workers: an address, a shape and a dtype, never an
open connection or credentials. A missing or damaged Shard is an error that names it. Zarr
itself would read a missing one as zeros, which in an Archive is never meant: every Shard of
a published array is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.storage.paths import SHARD_PREFIX
from unet_batch.storage.stores import open_store


@dataclass(frozen=True)
class StoredArray:
    """The array at `path` of the store at `url`; indexing reads just the Chunks it needs."""

    url: str
    path: str
    shape: tuple[int, ...]
    dtype_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return np.dtype(self.dtype_name)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        """The selected voxels. Raises NotFoundError or StoreError that name the array."""
        where = f"{self.url}/{self.path}"
        try:
            return np.asarray(_opened(self.url, self.path)[selection])
        except FileNotFoundError as error:
            raise NotFoundError(
                f"{where}: {error} is missing, or was replaced while it was read; open the Volume "
                "again"
            ) from error
        except (BaseError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            raise StoreError(
                f"{where} is damaged or cannot be read: {error}; restore it or make it again"
            ) from error

    def lazy(self, chunks: tuple[int, ...]) -> da.Array:
        """A Dask array with blocks of `chunks`; slices of it read only what they select."""
        meta = np.empty((0,) * self.ndim, dtype=self.dtype)
        name = f"{self.url}/{self.path}"  # names the content, so that Dask need not hash it
        array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
            self, chunks=chunks, name=name, meta=meta, asarray=False
        )
        return array


class _CompleteStore(WrapperStore[Store]):
    """A store in which a Shard that does not exist is an error, not zeros."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        buffer = await self._store.get(key, prototype, byte_range)
        if buffer is None and key.rpartition("/")[2].startswith(SHARD_PREFIX):
            raise FileNotFoundError(key)
        return buffer

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]


@lru_cache(maxsize=256)
def _opened(url: str, path: str) -> zarr.Array[Any]:
    store = _CompleteStore(open_store(url).zarr_store)
    return zarr.open_array(store=store, path=path, mode="r", zarr_format=3)
