"""Where a device has no memory for a batch it is halved; where for a Block, the Block fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unet_batch.errors import DeviceMemoryError
from unet_batch.inference.block_pass import BlockOrder, BlockResult
from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.predictor import Predictor
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1
ROI = (6, 6, 6)
LAYOUT = BlockLayout.whole(TileGrid.of((17, 11, 9), ROI, 0.5))


class TightEngine(TorchEngine):
    """A network on a device that holds `most` tiles at once; it counts those it was given."""

    most = 99

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        self.sizes = [*getattr(self, "sizes", []), len(tiles_nczyx)]
        if len(tiles_nczyx) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(tiles_nczyx)


def make_predictor(most: int, *, batch_size: int = 8) -> tuple[Predictor, TightEngine]:
    torch.manual_seed(0)
    engine = TightEngine(torch.nn.Conv3d(1, 3, 3, padding=1), Frame(1, 3, ROI), precision="fp32")
    engine.most = most
    predictor = Predictor(
        engine,
        intensity=IntensitySpec(mode="zscore"),
        head=Head((0, 1, 2)),
        importance="gaussian",
        batch_size=batch_size,
    )
    return predictor, engine


def predict(one: Predictor, volumes: int = 1) -> list[BlockResult]:
    (block,) = LAYOUT.blocks(0)
    box = Box((0, 0, 0, 0), (1, *LAYOUT.grid.shape))
    images = np.random.default_rng(0).normal(size=(volumes, *box.shape)).astype(np.float32)
    orders = [BlockOrder(f"v{k}", LAYOUT, block, (UNCHANGED,)) for k in range(volumes)]
    return one.predict(orders, [[(box, image)] for image in images])


def test_a_batch_is_halved_until_it_fits_to_the_same_labels() -> None:
    expected = predict(make_predictor(99)[0], volumes=2)
    tight, engine = make_predictor(3)
    results = predict(tight, volumes=2)
    for one, other in zip(results, expected, strict=True):
        assert one.num_tiles == LAYOUT.num_tiles
        np.testing.assert_array_equal(one.cells[0], other.cells[0])
    assert engine.sizes[:3] == [8, 4, 2]
    assert set(engine.sizes[3:]) == {2}  # remembered: nothing larger is tried again


def test_a_smaller_batch_is_told_once() -> None:
    tight, _ = make_predictor(4)
    predict(tight)
    (warning,) = tight.take_warnings()
    assert "no memory left for a batch of 8 tiles (CUDA out of memory. Tried" in warning
    assert "from here on batches have 4 tiles" in warning
    predict(tight)
    assert tight.take_warnings() == ()


def test_without_memory_for_the_smallest_batch_the_blocks_fail() -> None:
    tight, engine = make_predictor(1)
    results = predict(tight, volumes=2)
    assert all(one.is_short and not one.cells for one in results)
    assert "no memory left for a batch of 2 tiles" in results[0].failure
    assert min(engine.sizes) == engine.min_batch


def test_warming_up_finds_the_batch_that_fits() -> None:
    tight, engine = make_predictor(2)
    tight.warm_up()
    assert engine.sizes == [8, 4, 2]
    predict(tight)
    assert set(engine.sizes[3:]) == {2}


def test_warming_up_without_any_memory_says_so() -> None:
    with pytest.raises(DeviceMemoryError, match="for a batch of 2 tiles"):
        make_predictor(0)[0].warm_up()


@pytest.mark.parametrize("step", ["_begin", "_land_tile"])
def test_a_block_without_memory_fails_alone(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    predictor, _ = make_predictor(99)
    method, calls = getattr(predictor, step), iter(range(10**6))

    def first_fails(*arguments: object) -> object:
        if next(calls) == 0:
            raise MemoryError
        return method(*arguments)

    monkeypatch.setattr(predictor, step, first_fails)
    short, fine = predict(predictor, volumes=2)
    assert (short.is_short, short.cells) == (True, [])
    assert (fine.failure, fine.num_tiles) == ("", LAYOUT.num_tiles)
    expected = predict(make_predictor(99)[0], volumes=2)[1]
    np.testing.assert_array_equal(fine.cells[0], expected.cells[0])
