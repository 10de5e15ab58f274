"""What has landed of a Volume: once however often it comes, and named again when it is lost."""

from __future__ import annotations

import pytest

from unet_batch.planning.cost import ModelCost
from unet_batch.planning.landing import Landing
from unet_batch.planning.plan import BlockKey, Planner, VolumePlan
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics, VolumeInfo
from unet_batch.tiling.box import Box


@pytest.fixture
def plan() -> VolumePlan:
    """Two Sweeps along z whose Seam lies in the middle; two write regions."""
    info = VolumeInfo(
        id="v",
        shape_czyx=(1, 32, 8, 8),
        dtype="int16",
        spacing_mm=(1, 1, 1),
        affine=(0.0,) * 16,
        chunk_zyx=(16, 8, 8),
        shard_zyx=(16, 8, 8),
        content_hash="v",
        channels=("CT",),
        statistics=(ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0),),
    )
    inference = InferenceSpec(cuts="travel")
    model = ModelCost(num_channels=1, num_classes=2)
    planner = Planner(inference, (8, 8, 8), model, ("CT",), memory_budget=10**6, min_sweeps=2)
    return planner.plan(info)


FIRST, SECOND = BlockKey("v", 0, 0), BlockKey("v", 1, 0)
UPPER, LOWER = Box((0, 0, 0), (16, 8, 8)), Box((16, 0, 0), (32, 8, 8))


def test_regions_are_whole_when_the_last_of_their_cells_has_landed(plan: VolumePlan) -> None:
    landing = Landing(plan)
    first, second = landing.land(FIRST), landing.land(SECOND)
    assert (first.seams, len(second.seams)) == ([], 1)
    (seam,) = second.seams
    found = [*first.regions, *second.regions, *landing.land_labels(seam.box)]
    assert {region.box for region in found} == {UPPER, LOWER}
    for region in found:
        assert sum((cell & region.box).num_voxels for cell in region.cells) == 16 * 8 * 8


def test_a_volume_is_whole_with_the_regions_that_are_missing(plan: VolumePlan) -> None:
    landing = Landing(plan)
    assert landing.is_whole_with([LOWER, UPPER])
    assert not landing.is_whole_with([LOWER])
    assert not landing.note_written(UPPER)
    assert landing.is_whole_with([LOWER])
    assert landing.note_written(LOWER)


def test_what_lands_twice_counts_once(plan: VolumePlan) -> None:
    landing = Landing(plan)
    landing.land(FIRST)
    assert landing.land(FIRST) == ([], [])
    (seam,) = landing.land(SECOND).seams
    assert len(landing.land_labels(seam.box)) >= 1
    assert landing.land_labels(seam.box) == []
    assert landing.land(SECOND) == ([], [])


def test_a_lost_region_names_the_blocks_that_made_it_and_is_whole_with_them_again(
    plan: VolumePlan,
) -> None:
    landing = Landing(plan)
    landing.land(FIRST)
    (seam,) = landing.land(SECOND).seams
    regions = {one.box: one for one in landing.land_labels(seam.box)}
    crossing = next(one for one in regions.values() if seam.box in one.cells)
    assert landing.lose_region(crossing) == {FIRST, SECOND}
    assert landing.lose_region(crossing) == set()  # they run again already
    landing.land(FIRST)
    (seam_again,) = landing.land(SECOND).seams
    (again,) = list(landing.land_labels(seam_again.box))
    assert (again.box, set(again.cells)) == (crossing.box, set(crossing.cells))


def test_lost_sums_name_all_that_contributed(plan: VolumePlan) -> None:
    landing = Landing(plan)
    landing.land(FIRST)
    (seam,) = landing.land(SECOND).seams
    assert landing.lose_seam(seam) == {FIRST, SECOND}
    assert landing.land(FIRST).seams == []
    assert landing.land(SECOND).seams == [seam]


def test_the_last_region_that_is_stored_is_told_once(plan: VolumePlan) -> None:
    landing = Landing(plan)
    assert not landing.note_written(UPPER)
    assert landing.note_written(LOWER)
    assert not landing.note_written(LOWER)
