"""Presets through the Predictor, against MONAI on the whole volume, for any Blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer

from unet_batch.errors import BundleError
from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.engine import Engine, Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.presets import EnsembleEngine, MirroredEngine
from unet_batch.inference.skipping import SkipRule
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1
CLEAR = 1e-5  # labels may differ where two classes are as close as this: float tolerance


@lru_cache
def network(seed: int, classes: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = torch.nn.Conv3d(1, 6, 3, padding=1), torch.nn.Conv3d(6, classes, 3, padding=1)
    for parameter in layers[1].parameters():
        parameter.data *= 8  # probabilities far from one half
    return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1]).eval()


class ChannelsLast:
    """An Engine whose logits have the classes of a voxel side by side, as bf16 on a CPU has."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.frame, self.device, self.min_batch = engine.frame, engine.device, engine.min_batch
        self.name, self.tiles, self.close = engine.name, engine.tiles, engine.close

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        logits = self._engine.forward(tiles_nczyx)
        return logits.contiguous(memory_format=torch.channels_last_3d)


def ensemble(seeds: Sequence[int], classes: int, roi: Sequence[int]) -> Engine:
    frame = Frame(1, classes, tuple(roi))
    members = [TorchEngine(network(seed, classes), frame, precision="fp32") for seed in seeds]
    return members[0] if len(members) == 1 else EnsembleEngine(members)


def predictor(engine: Engine, head: Head, skip: SkipRule | None = None) -> Predictor:
    return Predictor(
        engine,
        intensity=IntensitySpec(mode="zscore"),
        head=head,
        importance="gaussian",
        batch_size=3,
        skip=skip,
    )


def planes(one: Predictor, head: Head, layout: BlockLayout, image: np.ndarray) -> np.ndarray:
    """The Head's planes of a whole volume, its Seams stitched."""
    found = np.full((head.num_planes, *layout.grid.shape), 255, np.uint16)
    seams: dict[Box, np.ndarray] = {}
    tiles = 0
    for block in (b for k in range(len(layout.sweeps)) for b in layout.blocks(k)):
        box = layout.input_box(block)
        whole = Box((0, *box.start), (1, *box.stop))
        order = BlockOrder("v", layout, block, (UNCHANGED,))
        (result,) = one.predict([order], [[(whole, image[whole.slices])]])
        assert not result.failure
        tiles += result.num_tiles + result.num_skipped
        for cell, array in zip(layout.cells(block), result.cells, strict=True):
            if cell.is_seam:
                seams[cell.box] = seams.get(cell.box, 0) + array
            else:
                found[:, *cell.box.slices] = array
    assert tiles == layout.num_tiles
    for box, sums in seams.items():
        stitched = head.planes(torch.from_numpy(sums)).numpy()
        found[:, *box.slices] = head.label_values(stitched)
    return found


def monai_logits(net: torch.nn.Module, image: np.ndarray, grid: TileGrid) -> torch.Tensor:
    inferer = SlidingWindowInferer(grid.roi, sw_batch_size=2, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        return inferer(torch.from_numpy(image)[None], net)[0]


def monai_probabilities(
    head: Head, seeds: Sequence[int], image: np.ndarray, grid: TileGrid
) -> np.ndarray:
    logits = [monai_logits(network(seed, head.num_classes), image, grid) for seed in seeds]
    each = [one.softmax(0) if head.activation == "softmax" else one.sigmoid() for one in logits]
    return torch.stack(each).mean(0).numpy()


@st.composite
def layouts(draw: st.DrawFn) -> BlockLayout:
    shape = tuple(draw(st.integers(4, 18)) for _ in range(3))
    grid = TileGrid.of(shape, tuple(draw(st.sampled_from([4, 6, 8])) for _ in range(3)), 0.5)
    groups = tuple(
        tuple(sorted({0, *draw(st.lists(st.integers(0, n - 1), max_size=1))})) for n in grid.counts
    )
    return BlockLayout(grid, draw(st.integers(0, 2)), groups, draw(st.integers(1, 3)))


def volume(layout: BlockLayout, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, *layout.grid.shape), np.float32)


@given(layouts(), st.integers(1, 3), st.sampled_from([2, 5]), st.booleans(), st.booleans())
@settings(max_examples=25)
def test_an_ensemble_is_the_mean_of_monais_softmax_for_any_blocks(
    layout: BlockLayout, members: int, classes: int, with_probabilities: bool, is_last: bool
) -> None:
    head = Head(tuple(range(classes)), "softmax", members, with_probabilities=with_probabilities)
    engine, image = ensemble(range(members), classes, layout.grid.roi), volume(layout)
    one = predictor(ChannelsLast(engine) if is_last else engine, head)
    found = planes(one, head, layout, image)
    theirs = monai_probabilities(head, range(members), image, layout.grid)
    best = np.sort(theirs, axis=0)
    clear = best[-1] - best[-2] > CLEAR
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(found[0][clear], theirs.argmax(0)[clear])
    if with_probabilities:
        np.testing.assert_allclose(found[1:], 255 * theirs, atol=0.51)


@given(layouts(), st.integers(1, 2), st.sampled_from([0.5, 0.3]), st.booleans(), st.booleans())
@settings(max_examples=25)
def test_overlapping_classes_are_monais_sigmoid_above_the_threshold_for_any_blocks(
    layout: BlockLayout, members: int, threshold: float, with_probabilities: bool, is_last: bool
) -> None:
    values = (2, 1, 7)
    head = Head(values, "sigmoid", members, threshold, with_probabilities)
    engine, image = ensemble(range(members), 3, layout.grid.roi), volume(layout)
    one = predictor(ChannelsLast(engine) if is_last else engine, head)
    found = planes(one, head, layout, image)
    theirs = monai_probabilities(head, range(members), image, layout.grid)
    for plane, value, probabilities in zip(found, values, theirs, strict=False):
        clear = np.abs(probabilities - threshold) > CLEAR
        np.testing.assert_array_equal(plane[clear], (value * (probabilities > threshold))[clear])
    if with_probabilities:
        np.testing.assert_allclose(found[3:], 255 * theirs, atol=0.51)


@pytest.mark.parametrize("is_last", [False, True])
def test_probabilities_change_no_label(is_last: bool) -> None:
    grid = TileGrid.of((20, 18, 16), (8, 8, 8), 0.5)
    layout, image = BlockLayout(grid, 0, ((0, 2), (0, 1), (0,)), 2), volume_of(grid)
    engine = ensemble([0], 5, grid.roi)
    engine = ChannelsLast(engine) if is_last else engine
    plain, full = Head(tuple(range(5))), Head(tuple(range(5)), with_probabilities=True)
    labels = planes(predictor(engine, plain), plain, layout, image)
    np.testing.assert_array_equal(
        labels[0], planes(predictor(engine, full), full, layout, image)[0]
    )


def volume_of(grid: TileGrid) -> np.ndarray:
    return volume(BlockLayout.whole(grid))


@pytest.mark.parametrize("axes", ["x", "zy", "zyx"])
def test_mirroring_averages_the_logits_of_every_flip(axes: str) -> None:
    engine = ensemble([0], 3, (4, 6, 8))
    tiles = torch.randn(2, 1, 4, 6, 8)
    dims = [{"z": 2, "y": 3, "x": 4}[axis] for axis in axes]
    with torch.inference_mode():
        found = MirroredEngine(engine, axes).forward(tiles)
    torch.testing.assert_close(found, mean_over_flips(engine, tiles, dims))


def mean_over_flips(engine: Engine, tiles: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """Flip by flip, which in the end is the mean over all combinations."""
    if not dims:
        with torch.inference_mode():
            return engine.forward(tiles)
    flipped = mean_over_flips(engine, tiles.flip(dims[0]), dims[1:]).flip(dims[0])
    return (mean_over_flips(engine, tiles, dims[1:]) + flipped) / 2


def test_a_mirrored_ensemble_mirrors_each_member() -> None:
    members = [ensemble([seed], 2, (4, 4, 4)) for seed in (0, 1)]
    tiles = torch.randn(2, 1, 4, 4, 4)
    with torch.inference_mode():
        found = MirroredEngine(EnsembleEngine(members), "zx").forward(tiles)
        each = [MirroredEngine(one, "zx").forward(tiles) for one in members]
    torch.testing.assert_close(found, torch.cat(each, 1))


def test_mirroring_keeps_the_layout_of_the_logits() -> None:
    engine = ChannelsLast(ensemble([0], 3, (4, 4, 4)))
    with torch.inference_mode():
        logits = MirroredEngine(EnsembleEngine([engine, engine]), "x").forward(
            torch.randn(2, 1, 4, 4, 4)
        )
    assert logits.is_contiguous(memory_format=torch.channels_last_3d)


def test_members_of_other_classes_are_refused() -> None:
    members = [ensemble([0], 2, (4, 4, 4)), ensemble([0], 3, (4, 4, 4))]
    with pytest.raises(BundleError, match="share tile and classes"):
        EnsembleEngine(members)


def test_an_ensemble_hands_out_tiles_that_every_member_takes() -> None:
    exact = ensemble([0], 2, (4, 4, 4))
    rough = TorchEngine(network(1, 2), exact.frame, precision="bf16")
    one = EnsembleEngine([rough, exact])
    batch = one.tiles(2)
    assert batch.dtype == torch.float32
    with torch.inference_mode():
        assert one.forward(batch.zero_()).shape == (2, 4, 4, 4, 4)


def half_empty(shape: tuple[int, int, int], air: float = -1000) -> np.ndarray:
    image = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    image[:, shape[0] // 2 :] = air
    return image


SKIP = SkipRule(channel=0, below=-950)


@pytest.mark.parametrize("head", [
    Head((0, 1, 2)),
    Head((0, 1, 2), with_probabilities=True),
    Head((1, 2, 3), "sigmoid", threshold=0.01, with_probabilities=True),
])  # fmt: skip
def test_skipped_tiles_are_counted_and_leave_background(head: Head) -> None:
    grid = TileGrid.of((40, 12, 10), (8, 8, 8), 0.5)
    layout, image = BlockLayout(grid, 0, ((0, 4), (0,), (0,)), 3), half_empty((40, 12, 10))
    engine = ensemble([0], 3, grid.roi)
    found = planes(predictor(engine, head, SKIP), head, layout, image)
    full = planes(predictor(engine, head), head, layout, image)
    np.testing.assert_array_equal(found[:, :16], full[:, :16])  # no skipped tile reaches there
    last = found[:, 24:]  # no predicted tile reaches there
    background = np.zeros_like(last)
    if head.activation == "softmax" and head.with_probabilities:
        background[1] = 255
    np.testing.assert_array_equal(last, background)


def test_a_volume_of_nothing_but_air_runs_no_network() -> None:
    grid = TileGrid.of((20, 9, 9), (8, 8, 8), 0.5)
    layout, image = BlockLayout.whole(grid), np.full((1, 20, 9, 9), -1024, np.float32)
    one = predictor(ensemble([0], 2, grid.roi), Head((0, 1)), SKIP)
    one.engine = Refusing(one.engine)
    assert not planes(one, Head((0, 1)), layout, image).any()


class Refusing(ChannelsLast):
    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a tile of air was predicted")


def test_a_voxel_that_is_not_below_keeps_its_tile() -> None:
    box = Box.from_shape((2, 2, 2))
    for value, is_background in [(-951, True), (-950, False), (np.nan, False)]:
        raw = np.full((2, 4, 4, 4), -1000, np.float32)
        raw[0, 1, 1, 1], raw[1] = value, 50  # the other channel is not looked at
        assert SKIP.holds([(Box.from_shape(raw.shape), raw)], box) is is_background
    halves = [(part, raw[part.slices]) for part in Box.from_shape(raw.shape).split((1, 1, 4, 4))]
    assert not SKIP.holds(halves, box)


def test_weights_are_only_summed_where_the_head_divides() -> None:
    plain = Head((0, 1))
    assert not plain.needs_weights
    assert not Head((1, 2), "sigmoid").needs_weights
    for head in (
        replace(plain, num_members=2),
        replace(plain, with_probabilities=True),
        Head((1, 2), "sigmoid", threshold=0.4),
    ):
        assert head.num_sums == head.num_members * 2 + 1
