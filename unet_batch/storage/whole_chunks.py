"""WholeChunks: an array of which each object is one Chunk, and each Chunk a whole channel.

Such are the scans of an archive of small ones, and their masks. zarr-python takes a
millisecond of one core to open one and to read it, ten times what decoding takes. What
`Encoding` wrote is read here by the same rules; every other array is for zarr-python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.encoding import COMPRESSIONS, Encoding
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.selection import bounding_box

_SPATIAL = 3


@dataclass(frozen=True, slots=True)
class WholeChunks:
    """The array at `path` of `store`, (z, y, x) or (c, z, y, x), a Chunk a channel."""

    store: ObjectStore
    path: str
    shape: tuple[int, ...]
    encoding: Encoding

    @classmethod
    def find(cls, store: ObjectStore, path: str) -> Self | None:
        """The array, where it is one of this kind; None where zarr-python is to say what it is."""
        where = paths.document(path)
        try:
            document = ome_zarr.read_document(store.get(where), where)
        except StoreError:
            return None
        shape: Any = document.get("shape")
        is_whole = isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
        if not is_whole or len(shape) not in {_SPATIAL, _SPATIAL + 1}:
            return None
        encoding = _encoding(document, tuple(shape))
        return cls(store, path, tuple(shape), encoding) if encoding else None

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        """The selected voxels, a copy. Raises FileNotFoundError or ValueError for a Chunk."""
        box, rest = bounding_box(selection, self.shape)
        channels = range(self.shape[0])[box[0]] if len(self.shape) > _SPATIAL else [None]
        inside: Any = (..., *box[-_SPATIAL:])
        chunks = [self._chunk(channel)[inside] for channel in channels]
        voxels = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        return np.ascontiguousarray(voxels[rest])

    def _chunk(self, channel: int | None) -> NDArray[Any]:
        cell = [0] * _SPATIAL if channel is None else [channel, *[0] * _SPATIAL]
        path = paths.shard_path(self.path, cell)
        try:
            content = self.store.get(path)
        except NotFoundError as error:
            raise FileNotFoundError(path) from error  # as zarr-python's stores do
        return self.encoding.decode(content)


def _encoding(document: Mapping[str, Any], shape: tuple[int, ...]) -> Encoding | None:
    """What `array_document` was made from, if it made `document` for Chunks of whole channels."""
    chunk = (*[1] * (len(shape) - _SPATIAL), *shape[-_SPATIAL:])
    for compression in COMPRESSIONS:
        encoding = Encoding(str(document.get("data_type")), chunk, chunk, compression)
        try:
            ours = ome_zarr.array_document(shape, encoding, "czyx"[-len(shape) :])
        except TypeError:  # no dtype of NumPy's
            return None
        ours["attributes"] = document.get("attributes")
        if ours == document:
            return encoding
    return None
