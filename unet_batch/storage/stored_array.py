"""StoredArray: one Zarr array by its address, read lazily, told from a damaged one.

It is what Dask holds and what travels to workers: an address, a shape and a dtype, never an
open connection or credentials. A missing or damaged Shard is an error that names it. Zarr
itself would read a missing one as zeros, which in an Archive is never meant: every Shard of
a published array is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray
from obstore.exceptions import BaseError

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.planning.volume_info import OutsideImage
from unet_batch.storage.complete_store import CompleteStore
from unet_batch.storage.encoded_array import EncodedArray
from unet_batch.storage.outside import OutsideArray
from unet_batch.storage.paths import SHARD_PREFIX
from unet_batch.storage.stores import open_store


@dataclass(frozen=True)
class StoredArray:
    """The array at `path` of the store at `url`; indexing reads just the Chunks it needs.

    `outside` says where the voxels (c, z, y, x) lie if not in an Archive; `url` and `path` are
    then those of that image.
    """

    url: str
    path: str
    shape: tuple[int, ...]
    dtype_name: str
    outside: OutsideImage | None = None

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
            if self.outside is not None:
                return OutsideArray(self.outside, self.shape, self.dtype_name).read(selection)
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
        # It names the content and its cuts, so that Dask need not hash it.
        version = f"@{self.outside.version}" if self.outside else ""
        name = f"{self.url}/{self.path}{version}/{chunks}"
        array: da.Array = da.from_array(  # type: ignore[no-untyped-call]
            self, chunks=chunks, name=name, meta=meta, asarray=False
        )
        return array


@lru_cache(maxsize=256)
def _opened(url: str, path: str) -> EncodedArray | zarr.Array[Any]:
    store = open_store(url)
    ours = EncodedArray.find(store, path)
    if ours is not None:
        return ours
    complete = CompleteStore(store.zarr_store, _is_shard)
    return zarr.open_array(store=complete, path=path, mode="r", zarr_format=3)


def _is_shard(key: str) -> bool:
    return key.rpartition("/")[2].startswith(SHARD_PREFIX)
