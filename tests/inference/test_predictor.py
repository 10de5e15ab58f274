from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer

from unet_batch.errors import BundleError
from unet_batch.inference.block_pass import BlockOrder, BlockResult
from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.head import Head, class_indices
from unet_batch.inference.predictor import Predictor
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import Block, BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid
from unet_batch.tiling.importance import Importance

UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1


def network(channels: int, classes: int, *, planar: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d if planar else torch.nn.Conv3d
    return torch.nn.Sequential(
        conv(channels, 6, 3, padding=1), torch.nn.ReLU(), conv(6, classes, 3, padding=1)
    ).eval()


def predictor(
    net: torch.nn.Module,
    *,
    channels: int,
    classes: int,
    roi: tuple[int, int, int],
    planar: bool = False,
    importance: Importance = "gaussian",
    batch_size: int = 3,
) -> Predictor:
    engine = TorchEngine(net, Frame(channels, classes, roi, planar), precision="fp32")
    return Predictor(
        engine,
        intensity=IntensitySpec(mode="zscore"),
        head=Head(tuple(range(classes))),
        importance=importance,
        batch_size=batch_size,
    )


def stitched(layout: BlockLayout, results: dict[Block, BlockResult]) -> np.ndarray:
    """Labels of the whole volume from labels and Seam sums."""
    labels = np.full(layout.grid.shape, 255, np.uint8)
    seams: dict[Box, list[np.ndarray]] = {}
    for block, result in results.items():
        for cell, array in zip(layout.cells(block), result.cells, strict=True):
            if cell.is_seam:
                seams.setdefault(cell.box, []).append(array)
            else:
                labels[cell.box.slices] = array
    for box, sums in seams.items():
        labels[box.slices] = class_indices(torch.from_numpy(np.sum(sums, axis=0))).numpy()
    return labels


def piece(box: Box, image_czyx: np.ndarray) -> tuple[Box, np.ndarray]:
    whole = Box((0, *box.start), (len(image_czyx), *box.stop))
    return whole, image_czyx[whole.slices]


def run(one: Predictor, layout: BlockLayout, image: np.ndarray) -> dict[Block, BlockResult]:
    results = {}
    for sweep in range(len(layout.sweeps)):
        for block in layout.blocks(sweep):
            box = layout.input_box(block)
            order = BlockOrder("v", layout, block, (UNCHANGED,) * len(image))
            (results[block],) = one.predict([order], [[piece(box, image)]])
    return results


def monai_logits(
    net: torch.nn.Module,
    image: np.ndarray,
    roi: Sequence[int],
    overlap: float,
    importance: Importance = "gaussian",
) -> np.ndarray:
    inferer = SlidingWindowInferer(roi, sw_batch_size=2, overlap=overlap, mode=importance)
    with torch.inference_mode():
        return inferer(torch.from_numpy(image)[None], net)[0].numpy()


def assert_same_labels(labels: np.ndarray, logits: np.ndarray) -> None:
    """Equal wherever MONAI's two best classes differ by more than float tolerance."""
    best_two = np.sort(logits, axis=0)[-2:]
    clear = best_two[1] - best_two[0] > 1e-5
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(labels[clear], logits.argmax(0)[clear])


@st.composite
def cases(draw: st.DrawFn) -> tuple[BlockLayout, int, int, float, Importance]:
    shape = tuple(draw(st.integers(4, 22)) for _ in range(3))
    roi = tuple(draw(st.sampled_from([4, 6, 8])) for _ in range(3))
    overlap = draw(st.sampled_from([0, 0.25, 0.5]))
    grid = TileGrid.of(shape, roi, overlap)
    groups = tuple(
        tuple(sorted({0, *draw(st.lists(st.integers(0, n - 1), max_size=1))})) for n in grid.counts
    )
    again = tuple(tuple(k for k in starts if k and draw(st.booleans())) for starts in groups)
    layout = BlockLayout(grid, draw(st.integers(0, 2)), groups, draw(st.integers(1, 3)), again)
    channels, classes = draw(st.sampled_from([1, 4])), draw(st.sampled_from([2, 5, 61]))
    return layout, channels, classes, overlap, draw(st.sampled_from(["gaussian", "constant"]))


@given(cases(), st.integers(1, 5))
@settings(max_examples=30)
def test_labels_equal_monai_on_the_whole_volume_for_any_blocks(
    case: tuple[BlockLayout, int, int, float, Importance], batch_size: int
) -> None:
    layout, channels, classes, overlap, importance = case
    image = np.random.default_rng(0).standard_normal((channels, *layout.grid.shape), np.float32)
    roi, net = layout.grid.roi, network(channels, classes)
    one = predictor(
        net, channels=channels, classes=classes, roi=roi, importance=importance,
        batch_size=batch_size,
    )  # fmt: skip
    results = run(one, layout, image)
    labels = stitched(layout, results)
    assert_same_labels(labels, monai_logits(net, image, roi, overlap, importance))
    assert sum(result.num_tiles for result in results.values()) == layout.num_tiles


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
@pytest.mark.parametrize("shape", [(3, 40, 30), (1, 9, 50), (1, 16, 16)])
def test_planar_networks_equal_monai_slice_by_slice(
    overlap: float, shape: tuple[int, int, int]
) -> None:
    image = np.random.default_rng(1).standard_normal((1, *shape), np.float32)
    net = network(1, 3, planar=True)
    grid = TileGrid.of(shape, (1, 16, 16), overlap)
    layout = BlockLayout(grid, 2, ((0,), (0,), (0,)), 2)
    one = predictor(net, channels=1, classes=3, roi=(1, 16, 16), planar=True)
    labels = stitched(layout, run(one, layout, image))
    for z in range(shape[0]):
        assert_same_labels(labels[z], monai_logits(net, image[:, z], (16, 16), overlap))


@st.composite
def planar_cases(draw: st.DrawFn) -> tuple[BlockLayout, int, int, float]:
    side, overlap = draw(st.sampled_from([4, 6, 8])), draw(st.sampled_from([0, 0.25, 0.5]))
    shape = (draw(st.integers(1, 4)), draw(st.integers(4, 22)), draw(st.integers(4, 22)))
    grid = TileGrid.of(shape, (1, side, side), overlap)
    groups = tuple(
        tuple(sorted({0, *draw(st.lists(st.integers(0, n - 1), max_size=2))})) for n in grid.counts
    )
    again = tuple(tuple(k for k in starts if k and draw(st.booleans())) for starts in groups)
    layout = BlockLayout(grid, draw(st.integers(0, 2)), groups, draw(st.integers(1, 3)), again)
    channels, classes = draw(st.sampled_from([1, 3])), draw(st.sampled_from([2, 61]))
    return layout, channels, classes, overlap


@given(planar_cases(), st.integers(1, 5))
@settings(max_examples=30)
def test_planar_labels_equal_monai_for_any_blocks_and_either_choice_at_cuts(
    case: tuple[BlockLayout, int, int, float], batch_size: int
) -> None:
    layout, channels, classes, overlap = case
    image = np.random.default_rng(0).standard_normal((channels, *layout.grid.shape), np.float32)
    roi, net = layout.grid.roi, network(channels, classes, planar=True)
    one = predictor(
        net, channels=channels, classes=classes, roi=roi, batch_size=batch_size, planar=True
    )
    results = run(one, layout, image)
    labels = stitched(layout, results)
    for z in range(len(labels)):
        assert_same_labels(labels[z], monai_logits(net, image[:, z], roi[1:], overlap))
    assert sum(result.num_tiles for result in results.values()) == layout.num_tiles


def test_finished_sums_over_weights_equal_monais_logits() -> None:
    """The Seam's sums are the logits before the division: divide, and compare to 1e-4."""
    grid = TileGrid.of((20, 18, 16), (8, 8, 8), 0.5)
    layout = BlockLayout(grid, 0, ((0, 2), (0, 1), (0,)), 2)
    image = np.random.default_rng(2).standard_normal((1, *grid.shape), np.float32)
    net = network(1, 2)
    results = run(predictor(net, channels=1, classes=2, roi=grid.roi), layout, image)
    ones = run(predictor(Constant(), channels=1, classes=2, roi=grid.roi), layout, image)
    theirs = monai_logits(net, image, grid.roi, 0.5)
    seams = 0
    for box, sums in seam_sums(layout, results).items():
        seams += 1
        logits = sums / seam_sums(layout, ones)[box][:1]
        np.testing.assert_allclose(logits, theirs[:, *box.slices], atol=1e-4)
    assert seams > 0


class Constant(torch.nn.Module):
    """Logit 1 everywhere: its sums are the summed weights."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(tiles).expand(-1, 2, -1, -1, -1)


def seam_sums(layout: BlockLayout, results: dict[Block, BlockResult]) -> dict[Box, np.ndarray]:
    sums: dict[Box, np.ndarray] = {}
    for block, result in results.items():
        for cell, array in zip(layout.cells(block), result.cells, strict=True):
            if cell.is_seam:
                sums[cell.box] = sums.get(cell.box, 0) + array
    return sums


def test_a_lost_slab_is_rebuilt_to_the_same_labels() -> None:
    grid = TileGrid.of((40, 10, 10), (8, 8, 8), 0.5)
    layout = BlockLayout(grid, 0, ((0,), (0,), (0,)), 3)
    image = np.random.default_rng(3).standard_normal((1, *grid.shape), np.float32)
    net = network(1, 3)
    whole = run(predictor(net, channels=1, classes=3, roi=grid.roi), layout, image)
    block = layout.blocks(0)[1]
    box = layout.input_box(block, rebuild=True)
    order = BlockOrder("v", layout, block, (UNCHANGED,), rebuild=True)
    fresh = predictor(net, channels=1, classes=3, roi=grid.roi)
    (result,) = fresh.predict([order], [[piece(box, image)]])
    np.testing.assert_array_equal(result.cells[0], whole[block].cells[0])
    assert result.num_tiles > whole[block].num_tiles


def test_small_volumes_share_batches_and_keep_their_own_labels() -> None:
    net = network(1, 3)
    images = [np.random.default_rng(k).standard_normal((1, 8, 8, 8), np.float32) for k in range(5)]
    layout = BlockLayout.whole(TileGrid.of((8, 8, 8), (8, 8, 8), 0.5))
    (block,) = layout.blocks(0)
    one = predictor(net, channels=1, classes=3, roi=(8, 8, 8), batch_size=4)
    orders = [BlockOrder(str(k), layout, block, (UNCHANGED,)) for k in range(5)]
    box = Box.from_shape((8, 8, 8))
    for image, result in zip(
        images, one.predict(orders, [[piece(box, i)] for i in images]), strict=True
    ):
        assert_same_labels(result.cells[0][0], monai_logits(net, image, (8, 8, 8), 0.5))


def test_raw_pieces_are_normalised_and_put_together() -> None:
    net = network(2, 3)
    raw = np.random.default_rng(4).integers(-1000, 1000, (2, 12, 12, 12)).astype(np.int16)
    statistics = tuple(
        ChannelStatistics(0, 0, float(c.mean()), float(c.std()), {}, 1, 0, 1, 0) for c in raw
    )
    image = np.stack([(c - c.mean()) / c.std() for c in raw.astype(np.float32)])
    layout = BlockLayout.whole(TileGrid.of((12, 12, 12), (8, 8, 8), 0.5))
    (block,) = layout.blocks(0)
    pieces = [(b, raw[b.slices]) for b in Box.from_shape(raw.shape).split((1, 5, 12, 7))]
    one = predictor(net, channels=2, classes=3, roi=(8, 8, 8))
    (result,) = one.predict([BlockOrder("v", layout, block, statistics)], [pieces])
    assert_same_labels(result.cells[0][0], monai_logits(net, image, (8, 8, 8), 0.5))


def test_nan_logits_fail_their_own_volume_only() -> None:
    layout = BlockLayout.whole(TileGrid.of((8, 8, 8), (8, 8, 8), 0.5))
    (block,) = layout.blocks(0)
    good = np.zeros((1, 8, 8, 8), np.float32)
    one = predictor(network(1, 2), channels=1, classes=2, roi=(8, 8, 8))
    broken = ChannelStatistics(0, 1, float("nan"), 1, {}, 1, 0, 1, 0)
    orders = [
        BlockOrder("bad", layout, block, (broken,)),
        BlockOrder("good", layout, block, (UNCHANGED,)),
    ]
    box = Box.from_shape((8, 8, 8))
    bad, fine = one.predict(orders, [[piece(box, good)], [piece(box, good)]])
    assert "NaN or infinite" in bad.failure
    assert not bad.cells
    assert fine.cells[0].shape == (1, 8, 8, 8)


def test_a_network_of_another_output_shape_is_named() -> None:
    wrong = torch.nn.Conv3d(1, 4, 3)
    layout = BlockLayout.whole(TileGrid.of((8, 8, 8), (8, 8, 8), 0.5))
    order = BlockOrder("v", layout, layout.blocks(0)[0], (UNCHANGED,))
    one = predictor(wrong, channels=1, classes=2, roi=(8, 8, 8))
    with pytest.raises(
        BundleError, match=r"returned \(2, 4, 6, 6, 6\).*expected \(2, 2, 8, 8, 8\)"
    ):
        one.predict(
            [order], [[piece(Box.from_shape((8, 8, 8)), np.zeros((1, 8, 8, 8), np.float32))]]
        )
