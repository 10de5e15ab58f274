"""Batching: the tiles of several Blocks in batches, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from unet_batch.inference.block_pass import BlockPass
from unet_batch.tiling.box import Index

MOST_SKIPPED = 4  # tiles in a batch, in batch sizes


class Tile(NamedTuple):
    """A tile on its way through the network, or past it."""

    under_way: BlockPass
    place: Index
    is_skipped: bool


def batched(tiles: Iterable[Tile], size: Callable[[], int]) -> Iterator[list[Tile]]:
    """Tiles in order, `size()` that are predicted at once, and those skipped between them.

    Few are skipped at once: every Block in a batch holds its voxels until the batch has landed.
    """
    batch: list[Tile] = []
    num_predicted = 0
    for tile in tiles:
        batch.append(tile)
        num_predicted += not tile.is_skipped
        is_full = num_predicted >= size() or len(batch) >= MOST_SKIPPED * size()
        if is_full or num_predicted == 0:
            yield batch
            batch, num_predicted = [], 0
    if batch:
        yield batch


def to_predict(batch: Iterable[Tile]) -> list[Tile]:
    """The tiles of a batch that go through the network."""
    return [tile for tile in batch if not tile.is_skipped]
