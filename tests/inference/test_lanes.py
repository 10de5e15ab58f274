"""Lanes change who predicts a batch, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np
import pytest
import torch

from unet_batch.inference.block_pass import Array, BlockOrder
from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.lanes import Lanes
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.skipping import Piece
from unet_batch.planning.lanes import MOST_LEFT
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1
ROI = (6, 6, 6)
SHAPES = [(6, 6, 6), (5, 4, 3), (17, 6, 6), (6, 9, 9), (20, 21, 22), (6, 6, 6), (7, 6, 6)]


# ---- Lanes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_work_is_finished_once_each_in_order(number: int) -> None:
    finished = list[tuple[int, int]]()

    def square(value: int) -> int:
        sleep(0.002 * (value % 3))  # so that a later one is often done first
        return value**2

    Lanes(number).run(range(40), square, lambda value, result: finished.append((value, result)))
    assert finished == [(value, value**2) for value in range(40)]


def test_lanes_work_side_by_side_on_a_core_each() -> None:
    together, seen = threading.Barrier(3), set[tuple[str, int]]()

    def meet(_: int) -> None:
        together.wait(timeout=60)  # for the other two
        seen.add((threading.current_thread().name, torch.get_num_threads()))

    Lanes(3).run(range(3), meet, lambda *_: None)
    assert seen == {("lane_0", 1), ("lane_1", 1), ("lane_2", 1)}


def test_one_lane_is_the_caller() -> None:
    seen = set[str]()
    Lanes(1).run([1], lambda _: seen.add(threading.current_thread().name), lambda *_: None)
    assert seen == {threading.current_thread().name}


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("where", ["work", "do", "finish"])
def test_an_error_is_raised_and_ends_all_lanes(number: int, where: str) -> None:
    finished = list[int]()

    def fail_at_five(value: int, here: str) -> int:
        if value == 5 and here == where:
            raise RuntimeError(f"in {here}")
        return value

    def finish(value: int, _: int) -> None:
        finished.append(fail_at_five(value, "finish"))

    work = (fail_at_five(value, "work") for value in range(1000))
    lanes = Lanes(number)
    with pytest.raises(RuntimeError, match=f"in {where}"):
        lanes.run(work, lambda value: fail_at_five(value, "do"), finish)
    assert finished == list(range(len(finished)))
    assert len(finished) <= 5
    lanes.run(range(3), lambda value: value, lambda value, _: finished.append(value))
    assert finished[-3:] == [0, 1, 2]


@pytest.mark.parametrize("number", [2, 3])
def test_a_lane_that_is_ahead_goes_on_but_not_far(number: int) -> None:
    asked, finished, waits = list[int](), list[int](), threading.Event()

    def work() -> Iterator[int]:
        for value in range(20):
            asked.append(value)
            assert len(asked) - len(finished) <= number + MOST_LEFT
            if len(asked) == number + MOST_LEFT:
                waits.set()  # all that may be asked for while the first is not through
            yield value

    def do(value: int) -> None:
        if value == 0:
            assert waits.wait(timeout=60)
            sleep(0.05)  # time to ask for more, if anyone would
            assert len(asked) == number + MOST_LEFT
            assert not finished

    Lanes(number).run(work(), do, lambda value, _: finished.append(value))
    assert finished == asked == list(range(20))


@pytest.mark.parametrize("number", [1, 2])
def test_work_is_asked_for_only_when_a_lane_is_free(number: int) -> None:
    done, finished = list[int](), list[int]()

    def work() -> Iterator[int]:
        for value in range(20):
            assert value - len(done) < number
            yield value

    Lanes(number).run(work(), done.append, lambda value, _: finished.append(value))
    assert finished == list(range(20))


def test_a_free_lane_begins_the_work_of_the_next_caller() -> None:
    lanes, last_may_go = Lanes(2), threading.Event()
    others_began, finished = threading.Event(), list[str]()

    def do(value: str) -> None:
        if value == "first 1":
            assert last_may_go.wait(timeout=60)
        elif value.startswith("other"):
            others_began.set()

    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(lanes.run, ["first 0", "first 1"], do, _into(finished))
        while "first 0" not in finished:
            sleep(0.001)
        other = callers.submit(lanes.run, ["other 0", "other 1"], do, _into(finished))
        assert others_began.wait(timeout=60)
        assert not first.done()
        other.result(timeout=60)
        last_may_go.set()
        first.result(timeout=60)
    assert finished == ["first 0", "other 0", "other 1", "first 1"]


def _into(finished: list[str]) -> Callable[[str, None], None]:
    return lambda value, _: finished.append(value)


# ---- Predictor ------------------------------------------------------------------------------


def make_predictor(num_lanes: int, *, head: Head | None = None) -> Predictor:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    return Predictor(
        TorchEngine(network, Frame(1, 3, ROI), precision="fp32"),
        intensity=IntensitySpec(mode="zscore"),
        head=head or Head((0, 1, 2)),
        importance="gaussian",
        batch_size=3,
        num_lanes=num_lanes,
    )


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
    expected = make_predictor(1).predict(orders, inputs)
    for found, one in zip(
        make_predictor(number).predict(orders, iter(inputs)), expected, strict=True
    ):
        assert found.num_tiles == one.num_tiles
        np.testing.assert_array_equal(found.cells[0], one.cells[0])


def test_a_sweep_goes_on_in_later_calls() -> None:
    layout = BlockLayout(TileGrid.of((40, 9, 9), ROI, 0.5), 0, ((0,), (0,), (0,)), 3)
    blocks = layout.blocks(0)
    assert len(blocks) > 2
    voxels = np.random.default_rng(0).normal(size=(1, 40, 9, 9)).astype(np.float32)
    inputs = []
    for block in blocks:
        box = layout.read_box(block)
        inputs.append([(Box((0, *box.start), (1, *box.stop)), voxels[:, *box.slices])])
    found: dict[int, list[Array]] = {}
    for lanes in (1, 3):
        predictor = make_predictor(lanes)
        orders = [BlockOrder("v", layout, block, (UNCHANGED,)) for block in blocks]
        first = predictor.predict(orders[:1], inputs[:1])
        found[lanes] = [
            cell for one in first + predictor.predict(orders[1:], inputs[1:]) for cell in one.cells
        ]
    for one, three in zip(found[1], found[3], strict=True):
        np.testing.assert_array_equal(one, three)


def test_a_volume_that_fails_fails_alone() -> None:
    orders, inputs = make_work(SHAPES)
    inputs[4] = [(Box((0, 0, 0, 0), (2, *SHAPES[4])), np.zeros((2, *SHAPES[4]), np.float32))]
    results = make_predictor(2).predict(orders, inputs)
    assert [bool(one.failure) for one in results] == [False] * 4 + [True, False, False]


def test_all_cores_share_a_batch_where_finishing_is_much_work() -> None:
    assert make_predictor(4).num_lanes == 4
    probabilities = Head((0, 1, 2), with_probabilities=True)
    assert make_predictor(4, head=probabilities).num_lanes == 1


def test_all_cores_share_a_batch_that_is_alone() -> None:
    predictor, names = make_predictor(2), set[str]()
    forward = predictor.engine.forward

    def watched(tiles: torch.Tensor) -> torch.Tensor:
        names.add(threading.current_thread().name)
        return forward(tiles)

    predictor.engine.forward = watched  # type: ignore[method-assign]
    predictor.predict(*make_work([ROI] * 3))
    assert names == {threading.current_thread().name}
    predictor.predict(*make_work([ROI] * 4))
    assert any(name.startswith("lane") for name in names)
