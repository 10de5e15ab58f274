"""Lanes change who predicts a Block, and nothing else."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.lanes import Lanes, _shares
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.skipping import Piece
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1
ROI = (6, 6, 6)
SHAPES = [(6, 6, 6), (5, 4, 3), (17, 6, 6), (6, 9, 9), (6, 6, 6), (7, 6, 6)]


class WatchedEngine(TorchEngine):
    """Remembers on which threads it ran, and on how many cores each pass."""

    seen: frozenset[tuple[str, int]] = frozenset()
    together: threading.Barrier | None = None
    """If set, a thread's first pass waits for that of another."""

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        here = (threading.current_thread().name, torch.get_num_threads())
        if self.together and here not in self.seen:
            self.together.wait(timeout=60)
        self.seen = {*self.seen, here}
        return super().forward(tiles_nczyx)


def make_lanes(number: int) -> tuple[Lanes, list[Predictor]]:
    torch.manual_seed(0)
    engine = WatchedEngine(torch.nn.Conv3d(1, 3, 3, padding=1), Frame(1, 3, ROI), precision="fp32")
    predictors = [
        Predictor(
            engine,
            intensity=IntensitySpec(mode="zscore"),
            head=Head((0, 1, 2)),
            importance="gaussian",
            batch_size=3,
        )
        for _ in range(number)
    ]
    return Lanes(predictors), predictors


def make_work(shapes: list[tuple[int, int, int]]) -> tuple[list[BlockOrder], list[list[Piece]]]:
    orders, inputs, random = [], [], np.random.default_rng(0)
    for number, shape in enumerate(shapes):
        layout = BlockLayout.whole(TileGrid.of(shape, ROI, 0.5))
        (block,) = layout.blocks(0)
        orders.append(BlockOrder(f"v{number}", layout, block, (UNCHANGED,)))
        box = Box((0, 0, 0, 0), (1, *shape))
        inputs.append([(box, random.normal(size=box.shape).astype(np.float32))])
    return orders, inputs


@pytest.mark.parametrize("number", [2, 3, 8])
def test_the_labels_are_those_of_one_lane(number: int) -> None:
    orders, inputs = make_work(SHAPES)
    lanes, (alone, *_) = make_lanes(number)
    expected = alone.predict(orders, inputs)
    for found, one in zip(lanes.predict(orders, iter(inputs)), expected, strict=True):
        assert found.num_tiles == one.num_tiles
        np.testing.assert_array_equal(found.cells[0], one.cells[0])


def test_every_lane_has_a_thread_that_asks_for_one_core() -> None:
    lanes, (first, _) = make_lanes(2)
    first.engine.together = threading.Barrier(2)  # type: ignore[attr-defined]
    lanes.predict(*make_work(SHAPES))
    assert first.engine.seen == {("lane_0", 1), ("lane_1", 1)}  # type: ignore[attr-defined]


def test_seconds_are_the_mean_of_the_lanes_and_warnings_are_those_of_all() -> None:
    lanes, predictors = make_lanes(2)
    lanes.predict(*make_work(SHAPES))
    forward = [one.seconds["forward"] for one in predictors]
    assert lanes.seconds["forward"] == pytest.approx(sum(forward) / 2)
    for one in predictors:
        one._warnings.append("smaller batches")
    assert lanes.take_warnings() == ("smaller batches",) * 2


def test_a_volume_that_fails_fails_alone() -> None:
    orders, inputs = make_work(SHAPES)
    inputs[4] = [(Box((0, 0, 0, 0), (2, *SHAPES[4])), np.zeros((2, *SHAPES[4]), np.float32))]
    results = make_lanes(2)[0].predict(orders, inputs)
    assert [bool(one.failure) for one in results] == [False] * 4 + [True, False]


def test_an_error_of_the_network_is_raised_when_all_lanes_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lanes, (first, _) = make_lanes(2)
    begun, ended = threading.Barrier(2), threading.Event()
    forward = first.engine.forward

    def one_fails(tiles: torch.Tensor) -> torch.Tensor:
        if not ended.is_set():
            begun.wait(timeout=60)
        if threading.current_thread().name == "lane_0":
            raise RuntimeError("of the network")
        ended.set()
        return forward(tiles)

    monkeypatch.setattr(first.engine, "forward", one_fails)
    with pytest.raises(RuntimeError, match="of the network"):
        lanes.predict(*make_work(SHAPES))
    assert ended.is_set()


@pytest.mark.parametrize("number", [1, 2, 4, 9])
def test_shares_are_all_blocks_in_order_and_about_alike(number: int) -> None:
    orders, _ = make_work(SHAPES * 3)
    shares = list(_shares(orders, number))
    assert len(shares) == number
    assert [one for share in shares for one in share] == orders
    tiles = [sum(one.block.tiles.num_voxels for one in share) for share in shares]
    most = max(order.block.tiles.num_voxels for order in orders)
    assert max(tiles) <= sum(tiles) / number + most
