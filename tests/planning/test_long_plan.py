"""A LongPlan is the Plan, with little of each Volume in memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.planning import long_plan
from unet_batch.planning.cost import ModelCost
from unet_batch.planning.long_plan import LongPlan
from unet_batch.planning.plan import Plan, Planner
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics, VolumeBrief, VolumeInfo

STATISTICS = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)
SHAPES = [(30, 30, 30), (96, 96, 96), (40, 40, 200), (300, 200, 200), (20, 64, 64)]
PLANNER = Planner(InferenceSpec(batch_size=2), (32, 32, 32), ModelCost(1, 2), ("CT",), 64 * 2**20)


def info(number: int, shape: tuple[int, int, int], channels: tuple[str, ...]) -> VolumeInfo:
    return VolumeInfo(
        f"v{number:04d}", (len(channels), *shape), "int16", (1, 1, 1), (0.0,) * 16, shape, shape,
        str(number), channels, (STATISTICS,) * len(channels),
    )  # fmt: skip


class Shop:
    """Descriptions of Volumes, and which were asked for."""

    def __init__(self, kinds: Sequence[int]) -> None:
        self.asked: list[list[str]] = []
        self.infos = [
            info(number, SHAPES[kind % 5], ("CT",) if kind < 5 else ("a", "b"))
            for number, kind in enumerate(kinds)
        ]

    def briefs(self) -> list[VolumeBrief]:
        return [
            VolumeBrief(i.id, "CT", i.dtype, i.shape_zyx, i.spacing_mm, 0, i.channels, ())
            for i in self.infos
        ]

    def fetch(self, ids: Sequence[str]) -> list[VolumeInfo]:
        self.asked.append(list(ids))
        return [one for wanted in ids for one in self.infos if one.id == wanted]


@given(kinds=st.lists(st.integers(0, 5), max_size=60) | st.lists(st.just(0), min_size=150))
def test_it_says_what_the_plan_says(kinds: list[int]) -> None:
    shop = Shop(kinds)
    plan, long = Plan(PLANNER, shop.infos), LongPlan(PLANNER, shop.briefs(), shop.fetch)
    assert list(long.chains()) == list(plan.chains())
    assert long.refused == plan.refused
    assert long.lanes_within_memory(8) == plan.lanes_within_memory(8)
    assert long.largest_footprint == plan.largest_footprint
    assert (long.num_tiles, long.num_voxels, long.has_seams) == (
        plan.num_tiles,
        plan.num_voxels,
        plan.has_seams,
    )
    assert list(long.volumes) == list(plan.volumes)
    for volume_id, volume in plan.volumes.items():
        assert long.volumes[volume_id].info == volume.info
        assert long.volumes[volume_id].layout is volume.layout
        assert long.tiles_of(volume_id) == plan.tiles_of(volume_id) == volume.num_tiles


def test_nothing_is_fetched_before_its_turn_and_then_many_at_once() -> None:
    shop = Shop([0] * 500 + [1] * 100)
    long = LongPlan(PLANNER, shop.briefs(), shop.fetch)
    assert (len(long.volumes), long.num_tiles > 0) == (600, True)
    assert long.lanes_within_memory(8) > 1
    assert long.largest_footprint is not None
    assert shop.asked == []
    chains = long.chains()
    ((key,),) = next(chains)
    assert long.volumes[key.volume_id].info.shape_zyx == (96, 96, 96)
    assert [len(ids) for ids in shop.asked] == [long_plan.FETCHED_AT_ONCE]
    list(chains)
    assert sorted(one for ids in shop.asked for one in ids) == list(long.volumes)


def test_what_is_long_past_is_forgotten_and_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_plan, "MAX_REMEMBERED", 40)
    shop = Shop([0] * 200)
    long = LongPlan(PLANNER, shop.briefs(), shop.fetch)
    list(long.chains())
    assert len(long.volumes) == 200
    assert long.volumes["v0000"].info.id == "v0000"
    assert shop.asked[-1] == ["v0000"]


def test_other_ids_are_not_in_it() -> None:
    shop = Shop([0, 5])
    long = LongPlan(PLANNER, shop.briefs(), shop.fetch)
    assert long.volumes.get("v0001") is None, "it was refused"
    assert "v9" not in long.volumes
    assert 7 not in long.volumes
    assert long.tiles_of("v0001") == 0
    assert not shop.asked
