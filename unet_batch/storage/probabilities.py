"""Probabilities of a mask's classes, a byte each, as an OME-Zarr image in the mask's generation.

    labels/liver/zarr.json ──> labels/liver/<key>/                     the mask
                          └──> labels/liver/<key>-probabilities/       an image (c, z, y, x)
                               └── 0/                                  round(255 p), a Shard a class

Readers find the image through the document that publishes the mask, so both become visible by
the same atomic put, and a mask never shows the probabilities of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import SpecError
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.encoding import Encoding
from unet_batch.storage.layout import Layout, Shape3
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store
from unet_batch.tiling.box import Box

DTYPE = "uint8"


@dataclass(frozen=True, slots=True)
class ProbabilitiesWriter:
    """Writes the probabilities of one generation; a plain value.

    Attributes
    ----------
    archive_url: address of the Archive.
    path: the image's group, as `probabilities_path` names it.
    names: of the classes, one a channel.
    shape_zyx: voxels of the mask.
    layout: Chunks and Shards of the mask.
    affine: 16 floats, the Volume's.
    """

    archive_url: str
    path: str
    names: tuple[str, ...]
    shape_zyx: Shape3
    layout: Layout
    affine: tuple[float, ...]

    def prepare(self) -> None:
        """Describe the image and its array. May be repeated."""
        affine = np.reshape(self.affine, (4, 4))
        image = ome_zarr.probabilities_document(self.names, "0", affine)
        shape = (len(self.names), *self.shape_zyx)
        array = ome_zarr.array_bytes(shape, self._encoding, "czyx")
        self._store.put(paths.document(self.path), ome_zarr.to_bytes(image))
        self._store.put(paths.document(self._array_path), array)

    def write(self, region: Box, voxels_czyx: NDArray[Any]) -> int:
        """Store one write region of every class, and return its bytes. May be repeated.

        Raises SpecError where the voxels are not uint8 of (classes, *region.shape).
        """
        expected = (len(self.names), *region.shape)
        if voxels_czyx.shape != expected or voxels_czyx.dtype != np.dtype(DTYPE):
            raise SpecError(
                f"{self.path}: got {voxels_czyx.dtype} voxels of shape {voxels_czyx.shape},"
                f" expected {DTYPE} of shape {expected}"
            )
        num_bytes = 0
        for path, voxels_zyx in zip(self._shard_paths(region), voxels_czyx, strict=True):
            content = self._encoding.encode(voxels_zyx[None])
            self._store.put(path, content)
            num_bytes += len(content)
        return num_bytes

    def missing_regions(self, regions: Sequence[Box]) -> list[Box]:
        """Those of `regions` that are not stored for every class."""
        stored = set(self._store.list_objects(self._array_path))
        return [region for region in regions if not stored.issuperset(self._shard_paths(region))]

    @property
    def _store(self) -> ObjectStore:
        return open_store(self.archive_url)

    @property
    def _array_path(self) -> str:
        return array_path(self.path)

    @property
    def _encoding(self) -> Encoding:
        chunk, shard = self.layout.chunk_zyx, self.layout.shard_zyx
        return Encoding(DTYPE, (1, *chunk), (1, *shard), "blosc")

    def _shard_paths(self, region: Box) -> list[str]:
        shard = self.layout.shard_zyx
        cell = [a // n for a, n in zip(region.start, shard, strict=True)]
        return [paths.shard_path(self._array_path, (c, *cell)) for c in range(len(self.names))]


def probabilities_path(generation_path: str) -> str:
    """The group of the probabilities that belong to the mask at `generation_path`."""
    return f"{generation_path}-probabilities"


def array_path(group: str) -> str:
    """The array (c, z, y, x) of the group of an image of probabilities."""
    return f"{group}/0"
