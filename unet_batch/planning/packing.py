"""Packing: how many tiles of small Volumes one call to a Replica predicts.

A call costs about 50 ms of two cores whatever is in it: four Ray tasks (read, predict, write,
publish), and at its end lanes that wait for each other. 500 Volumes of 40³ through a network that
takes little (AVX2, best of three, two runs): 3.3 and 3.5 s in packs of 32 tiles, 2.4 and 3.0 s of
64, 3.1 and 3.0 s of 128.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

LEAST_BATCHES = 8  # that a pack fills: few calls, yet fair shares
MOST_VOXELS = 2**22  # of a larger pack's tiles: 64 of 40³
MOST_TILES = 256  # of tiny tiles: what is lost together is run again one by one
PACKS_PER_REPLICA = 4  # before packs grow: the last ones end together


def least_pack(batch_size: int) -> int:
    """Tiles in the smallest pack; a Volume of a single Block with fewer is a small one."""
    return LEAST_BATCHES * batch_size


def full_pack(
    num_tiles: int, *, batch_size: int, roi_zyx: tuple[int, int, int], num_replicas: int
) -> int:
    """Tiles at which a pack is full, where small Volumes have `num_tiles` together.

    >>> full_pack(500, batch_size=4, roi_zyx=(40, 40, 40), num_replicas=1)
    64
    >>> full_pack(500, batch_size=4, roi_zyx=(40, 40, 40), num_replicas=4)
    32
    """
    room = min(MOST_VOXELS // prod(roi_zyx), MOST_TILES)
    share = min(room, num_tiles // (PACKS_PER_REPLICA * num_replicas))
    return max(least_pack(batch_size), share // batch_size * batch_size)


def packs(volumes: Iterable[tuple[str, int]], full: int) -> Iterator[list[str]]:
    """Ids of small Volumes, given with their tiles, in packs of `full` tiles; the last of fewer."""
    pack: list[str] = []
    num_tiles = 0
    for volume_id, tiles in volumes:
        pack.append(volume_id)
        num_tiles += tiles
        if num_tiles >= full:
            yield pack
            pack, num_tiles = [], 0
    if pack:
        yield pack
