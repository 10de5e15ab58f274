"""Partition: which of a Job's Volumes are one driver's, where several share the Job.

Each Volume belongs to one partition, by a hash of its id: drivers need not talk to each other,
and Volumes added later move none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeVar

from unet_batch.planning.specs.segment import PartitionSpec


class _Named(Protocol):
    @property
    def id(self) -> str: ...


AnyVolume = TypeVar("AnyVolume", bound=_Named)


def partition_of(volume_id: str, num_partitions: int) -> int:
    """The partition of a Volume, from 0."""
    digest = hashlib.sha256(volume_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % num_partitions


def in_partition(volumes: Iterable[AnyVolume], partition: PartitionSpec | None) -> list[AnyVolume]:
    """Those of `volumes` that are the driver's own; all of them where there are no partitions."""
    return [
        one
        for one in volumes
        if partition is None or partition_of(one.id, partition.of) == partition.index
    ]
