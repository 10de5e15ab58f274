"""LongPlan: the Plan of so many Volumes that only numbers are held of each until it is begun.

A VolumePlan takes some kilobytes: of a million, all the memory there is. How a Volume is cut
follows from its shape, which the Catalog has in a column; the rest is fetched, some Volumes at
a time, when their turn comes, and forgotten again. The Chains are those of the Plan.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from itertools import islice

import numpy as np
from typing_extensions import override

from unet_batch.planning.cost import Footprint
from unet_batch.planning.packing import packs
from unet_batch.planning.plan import Chain, Plan, Planner, VolumePlan, packed
from unet_batch.planning.survey import AnyVolume, survey
from unet_batch.planning.volume_info import VolumeInfo

FETCHED_AT_ONCE = 64
MAX_REMEMBERED = 8192
"""VolumePlans that are kept: more than are ever under way at once; 50 MB."""

Fetch = Callable[[Sequence[str]], Sequence[VolumeInfo]]
"""What gets the descriptions of some Volumes, in order."""


class VolumesOnDemand(MutableMapping[str, VolumePlan]):
    """VolumePlans by id (ids sorted), each made when it is asked for, and forgotten later."""

    def __init__(self, planner: Planner, ids: Sequence[str], fetch: Fetch) -> None:
        self._planner, self._ids, self._fetch = planner, ids, fetch
        self._remembered: OrderedDict[str, VolumePlan] = OrderedDict()

    def position(self, volume_id: object) -> int | None:
        """The place of a Volume among the sorted ids; None where it is not planned."""
        if not isinstance(volume_id, str):
            return None
        place = bisect_left(self._ids, volume_id)
        return place if place < len(self._ids) and self._ids[place] == volume_id else None

    def prepare(self, ids: Iterable[str]) -> None:
        """Fetch together what will be asked for next."""
        missing = [one for one in ids if one not in self._remembered]
        for info in self._fetch(missing) if missing else ():
            self[info.id] = self._planner.plan(info)

    @override
    def __getitem__(self, volume_id: str) -> VolumePlan:
        if volume_id not in self:
            raise KeyError(volume_id)
        if volume_id not in self._remembered:
            self.prepare([volume_id])
        self._remembered.move_to_end(volume_id)
        return self._remembered[volume_id]

    @override
    def __setitem__(self, volume_id: str, plan: VolumePlan) -> None:
        self._remembered[volume_id] = plan
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    @override
    def __delitem__(self, volume_id: str) -> None:
        raise TypeError("the Volumes of a Plan are settled")

    @override
    def __contains__(self, volume_id: object) -> bool:
        return self.position(volume_id) is not None

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    @override
    def __len__(self) -> int:
        return len(self._ids)


class LongPlan(Plan):
    """The Plan of `volumes`, sorted by id, of which `fetch` gets descriptions when it must."""

    def __init__(self, planner: Planner, volumes: Iterable[AnyVolume], fetch: Fetch) -> None:
        super().__init__(planner, ())
        ids: list[str] = []
        self._tiles, self._is_lone = array("q"), bytearray()
        self._num_voxels, self._has_seams = 0, False
        self._heaviest: Footprint | None = None
        self._heaviest_small = 0
        for volume, cost in survey(planner, volumes):
            if isinstance(cost, str):
                self.refused[volume.id] = cost
                continue
            ids.append(volume.id)
            self._tiles.append(cost.num_tiles)
            self._is_lone.append(cost.num_blocks == 1)
            self._num_voxels += volume.num_voxels
            self._has_seams = self._has_seams or cost.has_seams
            if cost.num_blocks == 1 and cost.num_tiles < planner.least_pack:
                self._heaviest_small = max(self._heaviest_small, cost.footprint.total)
            if self._heaviest is None or cost.footprint.total > self._heaviest.total:
                self._heaviest = cost.footprint
        self._ids, self._on_demand = ids, VolumesOnDemand(planner, ids, fetch)
        self.volumes = self._on_demand

    @property
    @override
    def num_tiles(self) -> int:
        return sum(self._tiles)

    @property
    @override
    def num_voxels(self) -> int:
        return self._num_voxels

    @property
    @override
    def has_seams(self) -> bool:
        return self._has_seams

    @property
    @override
    def largest_footprint(self) -> Footprint | None:
        return self._heaviest

    @override
    def tiles_of(self, volume_id: str) -> int:
        place = self._on_demand.position(volume_id)
        return 0 if place is None else self._tiles[place]

    @override
    def _small_bytes(self) -> int:
        return self._heaviest_small

    @override
    def chains(self) -> Iterator[Chain]:
        tiles = np.asarray(self._tiles)
        is_small = np.asarray(self._is_lone, bool) & (tiles < self.planner.least_pack)
        order = np.argsort(-tiles, kind="stable")
        large = (self._ids[k] for k in order if not is_small[k])
        while batch := list(islice(large, FETCHED_AT_ONCE)):
            self._on_demand.prepare(batch)
            for volume_id in batch:
                yield from self.volumes[volume_id].chains()
        full = self.planner.full_pack(int(tiles[is_small].sum()))
        small = ((self._ids[place], self._tiles[place]) for place in np.flatnonzero(is_small))
        for pack in packs(small, full):
            self._on_demand.prepare(pack)
            yield packed(pack)
