from __future__ import annotations

from dataclasses import replace

import pytest

from unet_batch.errors import BundleError, VoxelError
from unet_batch.planning.cost import ModelCost
from unet_batch.planning.lanes import lane_batch, lane_counts
from unet_batch.planning.plan import BlockKey, Plan, Planner
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics, VolumeInfo

STATISTICS = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)


def info(name: str, *shape: int) -> VolumeInfo:
    z, y, x = shape
    return VolumeInfo(
        id=name,
        shape_czyx=(1, z, y, x),
        dtype="int16",
        spacing_mm=(1, 1, 1),
        affine=(0.0,) * 16,
        chunk_zyx=(z, y, x),
        shard_zyx=(z, y, x),
        content_hash=name,
        channels=("CT",),
        statistics=(STATISTICS,),
    )


def planner(memory_budget: int = 2**30) -> Planner:
    return Planner(
        InferenceSpec(batch_size=2), (32, 32, 32), ModelCost(1, 2), ("CT",), memory_budget
    )


def test_small_volumes_are_packed_and_large_ones_stay_alone() -> None:
    infos = [
        info("a", 30, 30, 30),
        info("big", 96, 96, 96),
        *(info(f"s{k}", 30, 30, 30) for k in range(20)),
    ]
    chains = list(Plan(planner(), infos).chains())
    assert chains[0] == ((BlockKey("big", 0, 0),),)
    assert [len(chain[0]) for chain in chains[1:]] == [16, 5]
    assert all(len(chain) == 1 for chain in chains)


def test_packs_of_many_small_volumes_are_larger_the_fewer_replicas_share_them() -> None:
    infos = [info(f"s{k:03}", 30, 30, 30) for k in range(600)]

    def sizes(num_replicas: int) -> list[int]:
        chains = Plan(replace(planner(), num_replicas=num_replicas), infos).chains()
        return [len(step) for (step,) in chains]

    assert sizes(1) == [128, 128, 128, 128, 88]  # 2^22 voxels of 32³
    assert sizes(3) == 12 * [50]
    assert sizes(20) == 37 * [16] + [8]  # never fewer, though not all Replicas get four


def test_a_large_volume_is_a_chain_of_blocks() -> None:
    (chain,) = Plan(planner(memory_budget=2 * 2**20), [info("v", 400, 48, 48)]).chains()
    assert len(chain) > 2
    assert [step[0].number for step in chain] == list(range(len(chain)))


def test_every_tile_is_planned_once() -> None:
    plan = Plan(planner(memory_budget=2 * 2**20), [info("v", 200, 100, 100)])
    volume = plan.volumes["v"]
    keys = [key for chain in plan.chains() for step in chain for key in step]
    assert len(set(keys)) == len(keys) == volume.layout.num_blocks
    assert plan.num_tiles == volume.layout.grid.num_tiles
    assert plan.num_voxels == 200 * 100 * 100


def test_equal_shapes_share_one_layout() -> None:
    plan = Plan(planner(), [info(str(k), 40, 40, 40) for k in range(3)])
    assert len({id(volume.layout) for volume in plan.volumes.values()}) == 1


def test_volumes_that_do_not_fit_the_model_are_refused_by_name() -> None:
    two = replace(info("two", 8, 8, 8), channels=("a", "b"), shape_czyx=(2, 8, 8, 8))
    broken = replace(STATISTICS, num_nonfinite=100)
    nan = replace(info("nan", 8, 8, 8), statistics=(broken,))
    plan = Plan(planner(), [two, nan, info("fine", 8, 8, 8)])
    assert set(plan.volumes) == {"fine"}
    assert "2 channels" in plan.refused["two"]
    assert "100 voxels are NaN or infinite (19.53%)" in plan.refused["nan"]
    with pytest.raises(BundleError):
        planner().plan(two)
    with pytest.raises(VoxelError):
        planner().plan(nan)


def test_small_volumes_lie_side_by_side_as_far_as_memory_goes() -> None:
    infos = [info("small", 40, 40, 40), info("large", 400, 300, 300)]
    plan = Plan(planner(), infos)
    each = planner().footprint(plan.volumes["small"]).total
    weights = planner().model.weight_bytes
    waiting = 2 * 2 * 4 * 32**3  # float32 logits of two classes, of a batch of two tiles
    for number in (1, 2, 5):
        budget = weights + number * (each - weights) + (number > 1) * waiting
        if number > 1:
            short = Plan(replace(planner(), memory_budget=budget - 1), infos[:1])
            assert short.lanes_within_memory(4) == (1 if number == 2 else 4)
        tight = Plan(replace(planner(), memory_budget=budget), infos[:1])
        assert tight.lanes_within_memory(4) == min(4, number)


def test_lanes_share_out_a_batch_of_large_tiles() -> None:
    inference, infos = InferenceSpec(batch_size=4), [info("large", 300, 300, 300)]
    model = ModelCost(1, 2, forward_bytes=2**20)
    wide = replace(planner(), inference=inference, roi_zyx=(96, 96, 96), model=model)
    assert [lane_batch(4, lanes, wide.roi_zyx) for lanes in (1, 2, 4)] == [4, 2, 2]
    assert [lane_batch(4, lanes, (64, 64, 64)) for lanes in (1, 2, 4)] == [4, 4, 4]
    largest = Plan(wide, infos).largest_footprint
    assert largest is not None
    waiting = 2 * 2 * 4 * 96**3  # float32 logits of two classes, of a lane's batch of two tiles
    for more, lanes in ((-1, 1), (0, 2), (2**20 - 1, 2), (2**20, 4)):  # two tiles are 2^19 bytes
        plan = Plan(replace(wide, memory_budget=largest.total + waiting + more), [])
        plan.volumes["large"] = Plan(wide, infos).volumes["large"]
        assert plan.lanes_within_memory(4) == lanes
        spared = 1 if more < 0 else 0  # a byte less of a pass, and two lanes of two tiles fit
        assert plan.lanes_within_memory(4, forward_bytes=2**20 - spared) == max(lanes, 2)


def test_lanes_share_out_cores_evenly() -> None:
    assert [lane_counts(n) for n in (1, 2, 3, 7, 16)] == [[1], [2, 1], [3, 1], [1], [4, 2, 1]]


def test_the_largest_footprint_is_that_of_the_heaviest_volume() -> None:
    plan = Plan(planner(), [info("a", 40, 40, 40), info("b", 90, 90, 90)])
    assert plan.largest_footprint == plan.planner.footprint(plan.volumes["b"])
    assert Plan(planner(), []).largest_footprint is None
