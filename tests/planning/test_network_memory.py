"""The count of a training step's memory, held against the operations of the real network."""

from __future__ import annotations

import pytest
import torch

from unet_batch.models.footprint import step_bytes
from unet_batch.models.networks import define_network
from unet_batch.planning.network_memory import NetworkShape, training_bytes
from unet_batch.planning.network_plan import NetworkPlan, Scans, plan_network


def planned(shape: tuple[int, ...], spacing: tuple[float, ...]) -> NetworkPlan:
    voxels = 10 * shape[0] ** 3
    return plan_network(
        Scans((shape,) * 10, spacing, voxels),
        in_channels=4,
        num_classes=3,
        memory_budget=8 * 2**30,
        itemsize=4,
        roi=shape,
        batch_size=1,
    )


@pytest.mark.parametrize(
    ("tile", "spacing"),
    [((64, 64, 64), (1, 1, 1)), ((16, 128, 128), (5, 1, 1)), ((256, 256), (1, 1))],
)
def test_the_count_covers_what_the_network_keeps_and_little_more(
    tile: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    plan = planned(tile, spacing)
    with torch.device("meta"):
        network = define_network(
            "dynunet",
            spatial_dims=len(tile),
            in_channels=4,
            out_channels=3,
            arguments=plan.arguments(),
        ).build()
    one, two = (step_bytes(network, (batch, 4, *tile)) for batch in (1, 2))
    first, second = (
        training_bytes(plan.shape, tile, batch_size=batch, itemsize=4) for batch in (1, 2)
    )
    assert 1.3 < (second - first) / (two - one) < 1.6
    weights = sum(weight.numel() for weight in network.parameters())
    assert 0.99 * weights < plan.shape.num_weights <= weights


def test_levels_shrink_by_their_strides() -> None:
    shape = NetworkShape(1, 2, (4, 8, 8), ((1, 2), (2, 2)), ((1, 3), (3, 3), (3, 3)), 1)
    assert shape.level_voxels((6, 8)) == [48, 24, 6]


def test_half_the_precision_takes_less_and_a_larger_batch_more() -> None:
    plan = planned((64, 64, 64), (1, 1, 1))

    def needed(batch_size: int, itemsize: int) -> int:
        return training_bytes(plan.shape, plan.roi, batch_size=batch_size, itemsize=itemsize)

    assert needed(2, 2) < needed(2, 4) < needed(3, 4)
