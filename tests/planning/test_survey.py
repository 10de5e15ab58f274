"""A Survey says of each Volume what its Plan would, and why some would be refused."""

from __future__ import annotations

from unet_batch.planning.cost import ModelCost
from unet_batch.planning.plan import Plan, Planner
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.survey import VolumeCost, survey
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo

PLANNER = Planner(InferenceSpec(), (32, 32, 32), ModelCost(1, 2), ("image",), 64 * 2**20)
SHAPES = [(40, 40, 40), (200, 300, 300), (40, 40, 40), (8, 50, 60)]


def brief(number: int, **fields: object) -> VolumeBrief:
    row = VolumeBrief(f"v{number}", "CT", "int16", SHAPES[number], (1, 1, 1), 0, ("CT",), ())
    return row._replace(**fields)


def info(number: int) -> VolumeInfo:
    shape = SHAPES[number]
    return VolumeInfo(
        f"v{number}", (1, *shape), "int16", (1, 1, 1), (0.0,) * 16, shape, shape, "", ("CT",), ()
    )


def test_costs_are_those_of_the_plan() -> None:
    plan = Plan(PLANNER, [info(number) for number in range(4)])
    surveyed = dict(survey(PLANNER, (brief(number) for number in range(4))))
    for volume, cost in surveyed.items():
        planned = plan.volumes[volume.id]
        assert cost == VolumeCost(
            planned.num_tiles,
            planned.layout.num_blocks,
            len(planned.layout.sweeps),
            PLANNER.footprint(planned),
            planned.layout.has_seams,
        )


def test_a_volume_that_does_not_fit_the_model_is_named() -> None:
    two_channels, holes = brief(0, channels=("a", "b")), brief(1, num_nonfinite=7)
    reasons = [cost for _, cost in survey(PLANNER, [two_channels, holes, brief(2)])]
    assert "'v0' has 2 channels" in str(reasons[0])
    assert "'v1': 7 voxels are NaN" in str(reasons[1])
    assert isinstance(reasons[2], VolumeCost)
