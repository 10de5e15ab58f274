"""Reading: the voxels of Blocks as lazy Dask work, carried out by Ray just before they are used.

Dask slices the Volume lazily and fuses each Chunk's read with its slicing; Ray runs one task
a piece and keeps the result in its object store, from where the Replica takes it without a
copy. Dask on Ray submits a whole graph at once, so only what the Schedule asks for is ever
handed to it.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import ray
from dask.array.optimization import optimize
from dask.core import flatten
from ray.util.dask import ray_dask_get

from unet_batch.tiling.box import Box, Index

PieceRef = tuple[Box, "ray.ObjectRef[Any]"]
"""A box (c, z, y, x) of the volume and the reference to its raw voxels."""

# Reads are short and wait for the disk: they take no CPU from the Replicas' share.
_REMOTE = {"num_cpus": 0, "max_retries": 3}


def read_pieces(image_czyx: da.Array, box: Box) -> list[PieceRef]:
    """Start reading `box` (z, y, x) of an image; returns at once with its pieces.

    The pieces are the Dask chunks that `box` touches; together they cover it once.
    """
    region = image_czyx[(slice(None), *box.slices)]
    keys = list(flatten(region.__dask_keys__()))  # type: ignore[no-untyped-call]
    graph = optimize(region.__dask_graph__(), keys)  # type: ignore[no-untyped-call]
    refs = ray_dask_get(graph, keys, ray_persist=True, ray_remote_args=_REMOTE)
    return list(zip(_chunk_boxes(region, (0, *box.start)), refs, strict=True))


def _chunk_boxes(region: da.Array, start: Index) -> list[Box]:
    """Boxes of a region's chunks in volume coordinates, in the order of its keys."""
    axes = []
    for sizes, origin in zip(region.chunks, start, strict=True):
        stops = origin + np.cumsum(sizes)
        axes.append(list(zip((stops - sizes).tolist(), stops.tolist(), strict=True)))
    return [Box(tuple(a for a, _ in chunk), tuple(b for _, b in chunk)) for chunk in product(*axes)]
