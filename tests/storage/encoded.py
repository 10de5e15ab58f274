"""What `Encoding` makes of a whole array."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from unet_batch.storage import ome_zarr
from unet_batch.storage.encoding import Encoding
from unet_batch.tiling.box import Box


def written(voxels: NDArray[Any], encoding: Encoding) -> dict[str, bytes]:
    """The objects of an array that holds `voxels`."""
    document = ome_zarr.array_document(voxels.shape, encoding, "czyx"[-voxels.ndim :])
    objects = {"zarr.json": ome_zarr.to_bytes(document)}
    for region in Box.from_shape(voxels.shape).split(encoding.shard):
        cell = (a // n for a, n in zip(region.start, encoding.shard, strict=True))
        objects[".".join(["c", *map(str, cell)])] = encoding.encode(voxels[region.slices])
    return objects
