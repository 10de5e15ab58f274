"""The Volumes of a segment Job as columns of the Catalog: a million of them take 160 MB.

Their descriptions (VolumeInfo: statistics, affine, metadata) are fetched when they are needed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence, Set

import pyarrow as pa

from unet_batch.errors import UnetBatchError
from unet_batch.planning.partition import partition_of
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo
from unet_batch.side_by_side import each
from unet_batch.storage.archive import Archive
from unet_batch.storage.catalog import BRIEF_COLUMNS, briefs_in

MAX_AT_ONCE = 10_000
"""Volumes whose whole descriptions are held for the length of a Job: 100 MB."""


class JobVolumes:
    """The Volumes that a Spec chooses, of a partition its own, sorted by id."""

    def __init__(self, archive: Archive, spec: SegmentSpec) -> None:
        columns = (*BRIEF_COLUMNS[1:], "content_hash")
        table = archive.catalog.table(columns, spec.volumes, spec.where)
        share = spec.partition
        if share is not None:
            own = [partition_of(one, share.of) == share.index for one in table["id"].to_pylist()]
            table = table.filter(pa.array(own, pa.bool_()))
        self._archive, self._table = archive, table

    def __len__(self) -> int:
        return len(self._table)

    @property
    def ids(self) -> list[str]:
        """All ids, made anew: as objects a million of them take 100 MB."""
        found: list[str] = self._table["id"].to_pylist()
        return found

    @property
    def are_many(self) -> bool:
        """Whether they are too many to hold their descriptions all at once."""
        return len(self) > MAX_AT_ONCE

    def briefs(self, *, without: Set[str] = frozenset()) -> Iterator[VolumeBrief]:
        """What plans need of each, lazily, but for those of some ids."""
        return (brief for brief in briefs_in(self._table) if brief.id not in without)

    def brief(self, volume_id: str) -> VolumeBrief:
        """The same of one Volume."""
        (found,) = briefs_in(self._row(volume_id))
        return found

    def content_hash(self, volume_id: str) -> str:
        """What names the input of a result."""
        found: str = self._row(volume_id)["content_hash"][0].as_py()
        return found

    def content_hashes(self) -> Iterator[tuple[str, str]]:
        """Each id with the content's hash."""
        for batch in self._table.select(["id", "content_hash"]).to_batches(max_chunksize=10_000):
            yield from zip(batch["id"].to_pylist(), batch["content_hash"].to_pylist(), strict=True)

    def fetch(self, ids: Sequence[str]) -> list[VolumeInfo]:
        """The whole descriptions, many at once. Of one that cannot be read, what is known.

        Its voxels cannot be read either, then; and that quarantines it, with the reason.
        """
        return each(self._info, ids)

    def _info(self, volume_id: str) -> VolumeInfo:
        try:
            return self._archive.info(volume_id)
        except UnetBatchError:
            return self._known(volume_id)

    def _known(self, volume_id: str) -> VolumeInfo:
        brief = self.brief(volume_id)
        return VolumeInfo(
            id=volume_id,
            shape_czyx=(len(brief.channels), *brief.shape_zyx),
            dtype=brief.dtype,
            spacing_mm=brief.spacing_mm,
            affine=(1.0,) * 16,
            chunk_zyx=brief.shape_zyx,
            shard_zyx=brief.shape_zyx,
            content_hash=self.content_hash(volume_id),
            channels=brief.channels,
            statistics=(),
        )

    def _row(self, volume_id: str) -> pa.Table:
        column = self._table["id"]
        place = bisect_left(range(len(column)), volume_id, key=lambda k: column[k].as_py())
        if place == len(column) or column[place].as_py() != volume_id:
            raise KeyError(volume_id)
        return self._table.slice(place, 1)
