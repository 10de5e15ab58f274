"""A Replica as a plain object: it changes Engines in place, and packs are one object.

It lies beside the tests of Jobs for the tiny Bundle they share.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import ObjectLostError, RayTaskError

from unet_batch.inference import replica as replica_module
from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.places import PACKS_AT_ONCE
from unet_batch.inference.references import ArrayRef, PieceRef
from unet_batch.inference.replica import Replica, ReplicaReport
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

from ..shared_memory import FOLDER, mapped, shared_bytes
from .tiny_bundle import make_bundle

ROI = (16, 16, 16)
UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1
NUMBER = 5


@pytest.fixture
def make_replica(tmp_path: Path) -> Any:
    model = str(make_bundle(tmp_path / "tiny"))

    def make(num_lanes: int = 1) -> Replica:
        inference = InferenceSpec(precision="fp32", batch_size=2)
        return Replica(
            [model], inference, roi_zyx=ROI, engine="torch", num_threads=1, num_lanes=num_lanes
        )

    return make


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What an object store without Ray holds; errors in it are raised."""
    store: dict[str, Any] = {}

    def get(refs: list[str]) -> list[Any]:
        for error in (store[ref] for ref in refs if isinstance(store[ref], Exception)):
            raise error
        return [store[ref] for ref in refs]

    monkeypatch.setattr(ray, "get", get)
    return store


def work(objects: dict[str, Any]) -> tuple[list[BlockOrder], list[list[PieceRef]]]:
    """Blocks of small Volumes, three of them in one object."""
    layout = BlockLayout.whole(TileGrid.of(ROI, ROI, 0.5))
    (block,) = layout.blocks(0)
    box, random = Box((0, 0, 0, 0), (1, *ROI)), np.random.default_rng(0)
    arrays = [random.normal(size=box.shape).astype(np.float32) for _ in range(NUMBER)]
    objects.update({"pack": arrays[:3], "3": arrays[3], "4": arrays[4]})
    refs = [*(ArrayRef("pack", k) for k in range(3)), ArrayRef("3"), ArrayRef("4")]
    orders = [BlockOrder(f"v{k}", layout, block, (UNCHANGED,)) for k in range(NUMBER)]
    return orders, [[PieceRef(box, ref)] for ref in refs]


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_a_pack_is_the_same_cells_in_one_list(
    make_replica: Any, objects: dict[str, Any], num_lanes: int
) -> None:
    orders, inputs = work(objects)
    report, cells = make_replica(num_lanes).predict_pack(orders, inputs)
    assert isinstance(report, ReplicaReport)
    assert (report.failures, report.num_tiles) == (("",) * NUMBER, NUMBER)
    alone = make_replica()
    for order, pieces, cell in zip(orders, inputs, cells, strict=True):
        _, expected = alone.predict([order], [pieces])
        np.testing.assert_array_equal(cell, expected)


def test_what_could_not_be_read_fails_alone(make_replica: Any, objects: dict[str, Any]) -> None:
    orders, inputs = work(objects)
    objects["pack"][1] = "c.0.0.0.0 is missing"
    objects["3"] = RayTaskError("read", "traceback", ValueError("damaged"))
    objects["4"] = ObjectLostError("4" * 56, "", "")
    report, cells = make_replica(2).predict_pack(orders, inputs)
    assert [bool(one) for one in report.failures] == [False, True, False, True, True]
    assert report.failures[1] == "reading failed: c.0.0.0.0 is missing"
    assert report.failures[3] == "reading failed: damaged"
    assert [cell is None for cell in cells] == [False, True, False, True, True]


def test_it_changes_engines_in_place(make_replica: Any, objects: dict[str, Any]) -> None:
    pytest.importorskip("unet_batch.inference.openvino_engine")
    orders, inputs = work(objects)
    replica = make_replica(2)
    assert replica.warm_up() == "torch fp32"
    expected = replica.predict_pack(orders, inputs)[1]
    assert set(replica.choose_engine().seconds_per_tile) == {"torch", "openvino"}
    assert replica.use_engine("openvino") == "openvino fp32"
    assert replica._predictor.num_lanes == 1  # OpenVINO shares out the cores itself
    for cell, other in zip(replica.predict_pack(orders, inputs)[1], expected, strict=True):
        assert (cell != other).mean() < 1e-3  # where two classes are as good as equal
    assert replica.use_engine("torch") == "torch fp32"
    assert replica._predictor.num_lanes == 2


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Linux' /dev/shm")
def test_a_block_begins_without_what_earlier_ones_touched_of_the_store(
    make_replica: Any, objects: dict[str, Any]
) -> None:
    orders, inputs = work(objects)
    replica = make_replica()
    with mapped("plasma", 2**24) as memory:
        memory[:] = bytes(len(memory))
        before = shared_bytes()
        replica.predict(orders[:1], inputs[:1])
        assert before - shared_bytes() >= len(memory)


def test_each_object_is_fetched_once(
    make_replica: Any, objects: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders, inputs = work(objects)
    fetched, fetch = list[str](), replica_module.fetch

    def watched(wanted: Any) -> Any:
        found = fetch(wanted)
        fetched.extend(found)
        return found

    monkeypatch.setattr(replica_module, "fetch", watched)
    make_replica().predict_pack(orders, inputs)
    assert sorted(fetched) == ["3", "4", "pack"]


# ---- several calls at once --------------------------------------------------------------------


class Held:
    """Forward passes that wait until they are let go, each by the first voxel of its batch."""

    def __init__(self, replica: Replica) -> None:
        self._forward = replica._predictor.engine.forward
        self.begun: list[float] = []
        self._gone: set[float] = set()
        self._is_open = False
        self._changed = threading.Condition()
        replica._predictor.engine.forward = self.forward  # type: ignore[method-assign]

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        first = float(tiles.flatten()[0])
        with self._changed:
            self.begun.append(first)
            self._changed.notify_all()
            let_go = self._changed.wait_for(
                lambda: self._is_open or first in self._gone, timeout=60
            )
        assert let_go
        return self._forward(tiles)

    def wait_for(self, number: int) -> None:
        """Until so many have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= number, timeout=60)

    def let_go(self, first: float | None = None) -> None:
        """The batch that begins with this voxel; None: all, from now on."""
        with self._changed:
            self._gone |= set() if first is None else {first}
            self._is_open |= first is None
            self._changed.notify_all()


def test_a_lane_that_is_free_begins_the_next_pack(
    make_replica: Any, objects: dict[str, Any]
) -> None:
    orders, inputs = work(objects)
    voxels = [float(array.flat[0]) for array in (*objects["pack"], objects["3"], objects["4"])]
    expected = make_replica().predict_pack(orders, inputs)[1]
    replica = make_replica(2)
    held = Held(replica)
    with ThreadPoolExecutor(2) as ray_threads:
        first = ray_threads.submit(replica.predict_pack, orders[:4], inputs[:4])
        held.wait_for(2)
        assert sorted(held.begun) == sorted([voxels[0], voxels[2]])
        second = ray_threads.submit(replica.predict_pack, orders[::-1], inputs[::-1])
        held.let_go(voxels[0])
        held.wait_for(3)
        assert held.begun[2] == voxels[4]
        assert not first.done()  # its second batch is held
        held.let_go()
        report, cells = first.result(timeout=60)
        other_report, other_cells = second.result(timeout=60)
    assert (report.num_tiles, other_report.num_tiles) == (4, NUMBER)
    for found, whole in ((cells, expected[:4]), (other_cells, expected[::-1])):
        for cell, same in zip(found, whole, strict=True):
            np.testing.assert_array_equal(cell, same)


def test_a_block_waits_for_the_packs_and_they_for_it(
    make_replica: Any, objects: dict[str, Any]
) -> None:
    orders, inputs = work(objects)
    replica = make_replica(2)
    held = Held(replica)
    with ThreadPoolExecutor(3) as ray_threads:
        pack = ray_threads.submit(replica.predict_pack, orders[:4], inputs[:4])
        held.wait_for(2)
        block = ray_threads.submit(replica.predict, orders[4:], inputs[4:])
        sleep(0.1)  # long enough to wait at the entrance
        later = ray_threads.submit(replica.predict_pack, orders[:2], inputs[:2])
        sleep(0.1)
        assert len(held.begun) == 2
        for first in held.begun:
            held.let_go(first)
        pack.result(timeout=60)
        held.wait_for(3)
        sleep(0.1)
        assert (len(held.begun), later.done()) == (3, False)
        held.let_go()
        assert block.result(timeout=60)[0].num_tiles == 1
        assert later.result(timeout=60)[0].num_tiles == 2


def test_a_pack_that_fails_leaves_its_place(make_replica: Any, objects: dict[str, Any]) -> None:
    orders, inputs = work(objects)
    replica = make_replica(2)
    forward = replica._predictor.engine.forward

    def broken(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")

    replica._predictor.engine.forward = broken
    for call in (replica.predict_pack, replica.predict):
        for _ in range(PACKS_AT_ONCE + 1):
            with pytest.raises(RuntimeError, match="broken"):
                call(orders, inputs)
    replica._predictor.engine.forward = forward
    assert replica.predict_pack(orders, inputs)[0].num_tiles == NUMBER
