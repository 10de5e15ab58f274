"""The same Volume in smaller Blocks."""

from __future__ import annotations

import pytest

from unet_batch.errors import MemoryBudgetError
from unet_batch.planning.cost import ModelCost
from unet_batch.planning.plan import Planner
from unet_batch.planning.smaller import with_smaller_blocks
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics, VolumeInfo

STATISTICS = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)
AFFINE = (0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1)


def info(*shape: int) -> VolumeInfo:
    z, y, x = shape
    return VolumeInfo(
        id="v",
        shape_czyx=(1, z, y, x),
        dtype="int16",
        spacing_mm=(1, 1, 1),
        affine=AFFINE,
        chunk_zyx=(8, 8, 8),
        shard_zyx=(16, 16, 16),
        content_hash="",
        channels=("CT",),
        statistics=(STATISTICS,),
    )


def planner(weight_bytes: int) -> Planner:
    model = ModelCost(num_channels=1, num_classes=3, weight_bytes=weight_bytes)
    return Planner(InferenceSpec(), (8, 8, 8), model, ("CT",), memory_budget=2**30)


@pytest.mark.parametrize("weight_bytes", [0, 10**8])
def test_blocks_take_half_of_what_they_took_beside_the_model(weight_bytes: int) -> None:
    rules = planner(weight_bytes)
    plan = rules.plan(info(64, 24, 24))
    for _ in range(3):
        before, plan = rules.footprint(plan), with_smaller_blocks(rules, plan)
        after = rules.footprint(plan)
        assert after.model == before.model
        assert 2 * (after.total - after.model) <= before.total - before.model
        assert plan.num_tiles == rules.plan(info(64, 24, 24)).num_tiles


def test_a_volume_of_one_tile_cannot_be_cut() -> None:
    rules = planner(0)
    with pytest.raises(MemoryBudgetError, match="a volume of 8x8x8 voxels"):
        with_smaller_blocks(rules, rules.plan(info(8, 8, 8)))
