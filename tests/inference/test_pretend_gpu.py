"""What a GPU computes, on one that is not there: no operation mixes the sides, labels are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unet_batch.inference.block_pass import BlockOrder, BlockResult
from unet_batch.inference.engine import Engine, Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.precision_check import labels_differ
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.presets import EnsembleEngine, MirroredEngine
from unet_batch.inference.skipping import SkipRule
from unet_batch.models.networks import build_network
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid
from unet_batch.tiling.grid_map import GridMap, turns_to

from .pretend_gpu import CPU, DeviceTensor, pretend_gpu
from .test_devices import assert_alike
from .test_presets import predictor

STATISTICS = ChannelStatistics(-3, 3, 0.1, 1.2, {}, 1, 0, 1, 1)  # with a voxel that is not finite
ROI, CLASSES = (8, 8, 8), 3
LABELS = Head(tuple(range(CLASSES)))
SEAMS = BlockLayout(TileGrid.of((40, 16, 16), ROI, 0.5), 0, ((0, 4), (0, 2), (0,)), 2)
SMALL = [BlockLayout.whole(TileGrid.of(shape, ROI, 0.5)) for shape in [(8, 8, 8), (9, 13, 7)]]
SCAN = (9, 20, 22)  # voxels of the scan that is regridded
TURNED = np.array([[-3.0, 0, 0, 5], [0, 0, -1, 8], [0, -1, 0, 9], [0, 0, 0, 1]])


class RoundedEngine(TorchEngine):
    """Takes and gives bfloat16 with the channels last, as under autocast on a GPU."""

    def tiles(self, count: int) -> torch.Tensor:
        return super().tiles(count).to(torch.bfloat16, memory_format=torch.channels_last_3d)

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        logits = super().forward(tiles_nczyx.float())
        return logits.to(torch.bfloat16, memory_format=torch.channels_last_3d)


def engine(
    device: torch.device,
    *,
    seed: int = 0,
    planar: bool = False,
    kind: type[TorchEngine] = TorchEngine,
) -> Engine:
    torch.manual_seed(seed)
    network = build_network(
        "residual_unet",
        spatial_dims=3 - planar,
        in_channels=1,
        out_channels=CLASSES,
        arguments={"channels": [4, 8], "num_res_units": 1},
    )
    roi = (1, *ROI[1:]) if planar else ROI
    return kind(network, Frame(1, CLASSES, roi, planar), precision="fp32", device=device)


def regridded() -> BlockLayout:
    grid_map = GridMap.of(
        SCAN, (3.0, 1.0, 1.0), wanted_mm=(1.5, 1.4, 0.8), turns=turns_to("LPS", TURNED)
    )
    grid = TileGrid.of(grid_map.model_shape, ROI, 0.5)
    return BlockLayout(grid, 0, ((0,), (0,), (0,)), 1, ((), (), ()), grid_map)


def run(one: Predictor, layouts: list[BlockLayout]) -> list[BlockResult]:
    """Small volumes in one call; of a larger one each Block in its own, in two pieces."""
    random, results = np.random.default_rng(0), []
    for number, layout in enumerate(layouts):
        shape = SCAN if layout.grid_map else layout.grid.shape
        image = random.normal(size=(1, *shape)).astype(np.float32)
        image[0, 0, 0, 0] = np.nan
        for sweep in range(len(layout.sweeps)):
            for block in layout.blocks(sweep):
                box = layout.read_box(block)
                halves = [Box((0, *half.start), (1, *half.stop)) for half in _halves(box)]
                order = BlockOrder(f"v{number}", layout, block, (STATISTICS,))
                pieces = [(half, image[half.slices]) for half in halves]
                results += one.predict([order], [pieces])
    return results


def _halves(box: Box) -> list[Box]:
    middle = (box.start[0] + box.stop[0]) // 2
    near, far = (middle, *box.stop[1:]), (middle, *box.start[1:])
    return [one for one in (Box(box.start, near), Box(far, box.stop)) if one.num_voxels]


PRESETS: dict[str, Callable[[torch.device], Predictor]] = {
    "labels": lambda device: predictor(engine(device), LABELS),
    "bfloat16": lambda device: predictor(engine(device, kind=RoundedEngine), LABELS),
    "probabilities": lambda device: predictor(
        engine(device), replace(LABELS, with_probabilities=True)
    ),
    "sigmoid": lambda device: predictor(
        engine(device), replace(LABELS, activation="sigmoid", threshold=0.4)
    ),
    "ensemble": lambda device: predictor(
        EnsembleEngine([engine(device), engine(device, seed=1)]), replace(LABELS, num_members=2)
    ),
    "mirrored": lambda device: predictor(MirroredEngine(engine(device), ["x", "y"]), LABELS),
    "skipping": lambda device: predictor(engine(device), LABELS, skip=SkipRule(0, 3.2)),
    "all skipped": lambda device: predictor(engine(device), LABELS, skip=SkipRule(0, 99.0)),
}


@pytest.mark.parametrize("grid", ["own", "other"])
@pytest.mark.parametrize("preset", PRESETS)
def test_labels_are_those_of_the_cpu(preset: str, grid: str) -> None:
    layouts = [*SMALL, SEAMS] if grid == "own" else [regridded()]
    expected = run(PRESETS[preset](CPU), layouts)
    with pretend_gpu() as gpu:
        found = run(PRESETS[preset](gpu), layouts)
    # A logit between two values of bfloat16 may be rounded either way.
    assert_alike(found, expected, differing=2e-3, atol=1e-3 if preset == "bfloat16" else 1e-4)


def test_planar_networks_too() -> None:
    layouts = [BlockLayout.whole(TileGrid.of((5, 20, 12), (1, *ROI[1:]), 0.5))]
    expected = run(predictor(engine(CPU, planar=True), LABELS), layouts)
    with pretend_gpu() as gpu:
        assert_alike(
            run(predictor(engine(gpu, planar=True), LABELS), layouts), expected, differing=2e-3
        )


def test_what_is_done_before_the_first_block() -> None:
    order = BlockOrder("v", SMALL[1], SMALL[1].blocks(0)[0], (STATISTICS,))
    box = SMALL[1].read_box(order.block)
    whole = (Box((0, *box.start), (1, *box.stop)), np.ones((1, *box.shape), np.int16))
    with pretend_gpu() as gpu:
        one = predictor(engine(gpu), LABELS)
        one.warm_up()
        tiles = one.sample(order, [whole], 2)
        assert (tiles.device, len(tiles)) == (gpu, 2)
        assert labels_differ(one.engine, engine(gpu), LABELS, tiles) == 0.0


# ---- the pretended GPU itself -------------------------------------------------------------


def test_it_refuses_what_a_gpu_refuses() -> None:
    with pretend_gpu() as gpu:
        there, here = torch.ones(2, 3, device=gpu), torch.ones(2, 3)
        assert (there.device.type, here.device.type) == ("cuda", "cpu")
        mixtures: list[Callable[[], Any]] = [
            lambda: there + here,
            lambda: here.add_(there),
            lambda: torch.cat([there, here]),
        ]
        for mixed in mixtures:
            with pytest.raises(RuntimeError, match="tensors both on cuda:0 and on cpu"):
                mixed()
        with pytest.raises(TypeError, match="numpy: the tensor is on cuda:0"):
            there.numpy()


def test_it_copies_between_the_sides_and_shares_within_one() -> None:
    with pretend_gpu() as gpu:
        here = torch.zeros(4)
        there = here.to(gpu)
        there[1:] += 5
        assert here.tolist() == [0, 0, 0, 0]
        assert there.cpu().tolist() == [0, 5, 5, 5]
        assert isinstance(there.to(gpu), DeviceTensor)
        there.copy_(torch.tensor([1.0, 2, 3, 4]))
        best: Any = there.view(2, 2).max(0)
        assert best.values.cpu().tolist() == [3, 4]
