"""Reading: the voxels of Blocks as lazy Dask work, carried out by Ray just before they are used.

Dask slices the Volume lazily and fuses each Chunk's read with its slicing; Ray runs one task
a piece and keeps the result in its object store, from where the Replica takes it without a
copy. Dask on Ray submits a whole graph at once, so only what the Schedule asks for is ever
handed to it. Small Volumes, many to a Step, are read by one task.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import dask
import dask.array as da
import numpy as np
import ray
from dask.array.optimization import optimize
from dask.core import flatten
from numpy.typing import NDArray
from ray.util.dask import ray_dask_get

from unet_batch.errors import UnetBatchError
from unet_batch.inference.references import ArrayRef, PieceRef
from unet_batch.side_by_side import each
from unet_batch.storage.stores import is_far, limit_zarr_threads
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box, Index

IO_CPUS = 0.25
"""CPUs that a task which reads or writes asks for: what bounds how many run on a node."""

IO_WORKERS = 2  # processes beside a Replica that read and write
READERS = 2  # tasks that read a Block, at least

_REMOTE = {"num_cpus": IO_CPUS, "max_retries": 3}


@ray.remote(num_cpus=IO_CPUS, max_retries=0)
def prepare_worker() -> None:
    """Begin a worker process with all that reading and writing import, before it is needed."""
    limit_zarr_threads()
    time.sleep(0.2)  # so that those who are begun together do not share one process


def read_pieces(volume: Volume, box: Box) -> list[PieceRef]:
    """Start reading `box` (z, y, x) of a Volume; returns at once with its pieces.

    The pieces are the Dask chunks that `box` touches; together they cover it once.
    """
    region = _lazy(volume, box)[(slice(None), *box.slices)]
    keys = list(flatten(region.__dask_keys__()))  # type: ignore[no-untyped-call]
    graph = optimize(region.__dask_graph__(), keys)  # type: ignore[no-untyped-call]
    refs = ray_dask_get(graph, keys, ray_persist=True, ray_remote_args=_REMOTE)
    boxes = _chunk_boxes(region.chunks, (0, *box.start))
    return [PieceRef(part, ArrayRef(ref)) for part, ref in zip(boxes, refs, strict=True)]


def _lazy(volume: Volume, box: Box) -> da.Array:
    """The image in blocks of whole Shards; in thinner ones where `box` is in a single Shard.

    A Replica that waits for its first Block waits half as long where two tasks read it.
    """
    image, layers = volume.image, volume.info.chunk_zyx[0]
    _, z, y, x = map(int, image.chunksize)
    if image[(slice(0, 1), *box.slices)].npartitions >= READERS or box.shape[0] < 2 * layers:
        return image
    thinner = -(-box.shape[0] // READERS // layers) * layers
    return volume.stored.lazy((1, min(z, thinner), y, x))


def read_pack(work: Sequence[tuple[Volume, Box]]) -> list[PieceRef]:
    """Start reading one box of each of several small Volumes, in one task; a piece for each."""
    # A partial hides the arguments from Dask, which would walk through all of them.
    lazy = dask.delayed(partial(_read_each, tuple(work)), pure=False, traverse=False)()
    graph, key = lazy.__dask_graph__(), lazy.key
    (ref,) = ray_dask_get(graph, [key], ray_persist=True, ray_remote_args=_REMOTE)
    boxes = [_with_channels(volume, box) for volume, box in work]
    return [PieceRef(box, ArrayRef(ref, index)) for index, box in enumerate(boxes)]


def _read_each(work: Sequence[tuple[Volume, Box]]) -> list[NDArray[Any] | str]:
    limit_zarr_threads()
    return each(_read, work, at_once=any(is_far(volume.stored.url) for volume, _ in work))


def _read(one: tuple[Volume, Box]) -> NDArray[Any] | str:
    volume, box = one
    try:
        return volume.stored[_with_channels(volume, box).slices]
    except UnetBatchError as error:
        return str(error)


def _with_channels(volume: Volume, box: Box) -> Box:
    return Box((0, *box.start), (volume.info.shape_czyx[0], *box.stop))


def _chunk_boxes(chunks: Sequence[Sequence[int]], start: Index) -> list[Box]:
    """Boxes of a region's chunks in volume coordinates, in the order of its keys."""
    axes = []
    for sizes, origin in zip(chunks, start, strict=True):
        stops = origin + np.cumsum(sizes)
        axes.append(list(zip((stops - sizes).tolist(), stops.tolist(), strict=True)))
    return [Box(tuple(a for a, _ in chunk), tuple(b for _, b in chunk)) for chunk in product(*axes)]
