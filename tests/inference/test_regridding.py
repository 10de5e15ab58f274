"""Predicting on another grid than the scan's: equal to MONAI's transforms on whole volumes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Orientation, Spacing

from unet_batch.inference.block_pass import BlockOrder, BlockResult
from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.skipping import SkipRule
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import Block, BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid
from unet_batch.tiling.grid_map import GridMap, turns_to

UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1
ROI = (8, 6, 8)
SPACING = (4.8, 0.9, 1.1)
# Sagittal: z runs to the left, y down, x backwards, turned by a few degrees.
COS, SIN = np.cos(0.1), np.sin(0.1)
SAGITTAL = np.array(
    [[-4.8, 0, 0, 50], [0, 0.9 * SIN, -1.1 * COS, 80], [0, -0.9 * COS, -1.1 * SIN, 9], [0, 0, 0, 1]]
)


def network(classes: int, *, planar: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d if planar else torch.nn.Conv3d
    return torch.nn.Sequential(
        conv(1, 6, 3, padding=1), torch.nn.ReLU(), conv(6, classes, 3, padding=1)
    ).eval()


@dataclass
class Case:
    """A scan, the grid a network of `classes` wants it on, and the cuts of the tiles."""

    image: np.ndarray
    classes: int
    code: str
    wanted: tuple[float, float, float]
    roi: tuple[int, int, int] = ROI
    planar: bool = False

    @property
    def grid_map(self) -> GridMap:
        turns = turns_to(self.code, SAGITTAL)
        return GridMap.of(self.image.shape[1:], SPACING, wanted_mm=self.wanted, turns=turns)

    @property
    def tiles(self) -> TileGrid:
        return TileGrid.of(self.grid_map.model_shape, self.roi, 0.5)

    def layout(self, axis: int, groups: tuple[tuple[int, ...], ...], layers: int) -> BlockLayout:
        cuts = tuple(starts[1:] for starts in groups)
        return BlockLayout(self.tiles, axis, groups, layers, cuts, self.grid_map)

    def predictor(self, head: Head | None = None) -> Predictor:
        engine = TorchEngine(
            network(self.classes, planar=self.planar),
            Frame(1, self.classes, self.roi, self.planar),
            precision="fp32",
        )
        return Predictor(
            engine,
            intensity=IntensitySpec(mode="zscore"),
            head=head or Head(tuple(range(self.classes))),
            importance="gaussian",
            batch_size=3,
        )

    def monais_logits(self) -> np.ndarray:
        """Of the scan's own voxels: resampled, predicted and inverted as a whole."""
        net = network(self.classes, planar=self.planar)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            chain = Compose([Orientation(self.code[::-1]), Spacing(self.wanted)])
            there = chain(MetaTensor(self.image, affine=SAGITTAL))
            roi = self.roi[1:] if self.planar else self.roi
            inferer = SlidingWindowInferer(roi, sw_batch_size=2, overlap=0.5, mode="gaussian")
            inputs = there.as_tensor().transpose(0, 1) if self.planar else there.as_tensor()[None]
            found = inferer(inputs, net)
            logits = found.transpose(0, 1) if self.planar else found[0]
            back = chain.inverse(
                MetaTensor(logits, meta=there.meta, applied_operations=there.applied_operations)
            )
        return np.asarray(back)


def run(one: Predictor, layout: BlockLayout, image: np.ndarray) -> dict[Block, BlockResult]:
    results = {}
    for sweep in range(len(layout.sweeps)):
        for block in layout.blocks(sweep):
            order = BlockOrder("v", layout, block, (UNCHANGED,))
            (results[block],) = one.predict([order], [[piece(layout.read_box(block), image)]])
            assert not results[block].failure
    return results


def piece(box: Box, image: np.ndarray) -> tuple[Box, np.ndarray]:
    whole = Box((0, *box.start), (1, *box.stop))
    return whole, image[whole.slices]


def put_together(
    layout: BlockLayout, results: dict[Block, BlockResult], image: np.ndarray
) -> np.ndarray:
    """The planes of the whole scan."""
    planes = next(len(result.cells[0]) for result in results.values() if result.cells)
    whole = np.full((planes, *image.shape[1:]), 255, np.uint8)
    for block, result in results.items():
        for cell, array in zip(layout.cells(block), result.cells, strict=True):
            whole[:, *cell.box.slices] = array
    return whole


def assert_same_labels(labels: np.ndarray, logits: np.ndarray) -> None:
    """Equal wherever MONAI's two best classes differ by more than float tolerance."""
    best_two = np.sort(logits, axis=0)[-2:]
    clear = best_two[1] - best_two[0] > 1e-4
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(labels[clear], logits.argmax(0)[clear])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, BlockLayout]:
    shape = tuple(draw(st.integers(low, 22)) for low in (2, 8, 8))
    image = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    wanted = tuple(draw(st.sampled_from([0.77, 1.31, 2.3, 4.8])) for _ in range(3))
    case = Case(image, draw(st.sampled_from([2, 5])), draw(st.sampled_from(["RAS", "PIL"])), wanted)
    groups = tuple(
        tuple(sorted({0, *draw(st.lists(st.integers(0, n - 1), max_size=1))}))
        for n in case.tiles.counts
    )
    return case, case.layout(draw(st.integers(0, 2)), groups, draw(st.integers(1, 3)))


@given(cases())
@settings(max_examples=25)
def test_labels_equal_monais_for_any_grid_and_blocks(drawn: tuple[Case, BlockLayout]) -> None:
    case, layout = drawn
    results = run(case.predictor(), layout, case.image)
    labels = put_together(layout, results, case.image)[0]
    assert_same_labels(labels, case.monais_logits())
    assert sum(result.num_tiles for result in results.values()) == layout.num_tiles


@pytest.fixture
def case() -> Case:
    image = np.random.default_rng(1).standard_normal((1, 9, 40, 30), np.float32)
    return Case(image, 3, "RAS", (1.3, 1.3, 1.3))


def test_probabilities_are_those_of_the_interpolated_logits(case: Case) -> None:
    layout = case.layout(0, ((0, 2), (0,), (0, 3)), 1)
    head = Head((0, 1, 2), with_probabilities=True)
    planes = put_together(layout, run(case.predictor(head), layout, case.image), case.image)
    expected = torch.from_numpy(case.monais_logits()).softmax(0).numpy()
    np.testing.assert_allclose(planes[1:], expected * 255, atol=0.51)
    assert (planes[0] == expected.argmax(0)).mean() > 0.999


def test_a_lost_slab_is_rebuilt_to_the_same_labels(case: Case) -> None:
    layout = case.layout(1, ((0,), (0, 4), (0,)), 2)
    whole = run(case.predictor(), layout, case.image)
    for block in layout.blocks(1)[1:]:
        order = BlockOrder("v", layout, block, (UNCHANGED,), rebuild=True)
        read = piece(layout.read_box(block, rebuild=True), case.image)
        (again,) = case.predictor().predict([order], [[read]])
        np.testing.assert_array_equal(again.cells[0], whole[block].cells[0])


def test_a_planar_network_sees_slices_of_the_models_grid() -> None:
    image = np.random.default_rng(2).standard_normal((1, 9, 20, 14), np.float32)
    case = Case(image, 3, "RAS", (2.0, 1.3, 2.3), roi=(1, 8, 8), planar=True)
    layout = case.layout(2, ((0,), (0,), (0, 1)), 1)
    labels = put_together(layout, run(case.predictor(), layout, image), image)[0]
    assert_same_labels(labels, case.monais_logits())


def test_large_planes_are_resampled_in_pieces(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = case.layout(0, ((0,), (0,), (0,)), 9)
    whole = put_together(layout, run(case.predictor(), layout, case.image), case.image)
    monkeypatch.setattr("unet_batch.inference.regridding.MAX_SUMS_RESAMPLED", 150)
    pieces = put_together(layout, run(case.predictor(), layout, case.image), case.image)
    np.testing.assert_array_equal(pieces, whole)


def test_blocks_between_two_planes_of_a_coarse_scan_hand_out_nothing() -> None:
    image = np.random.default_rng(3).standard_normal((1, 4, 12, 12), np.float32)
    case = Case(image, 2, "PIL", (0.4, 0.9, 1.1))
    layout = case.layout(0, ((0,), (0,), (0,)), 1)
    results = run(case.predictor(), layout, image)
    assert any(not result.cells for result in results.values())
    assert_same_labels(put_together(layout, results, image)[0], case.monais_logits())


def test_what_no_tile_covers_is_background_on_the_scan_too(case: Case) -> None:
    """Air in the back half: its tiles are skipped, the front keeps its labels."""
    case.image[:, :, 20:] = -1000
    layout = case.layout(0, ((0,), (0,), (0,)), 9)
    whole = put_together(layout, run(case.predictor(), layout, case.image), case.image)
    skipping = case.predictor()
    skipping._skip = SkipRule(channel=0, below=-900)
    results = run(skipping, layout, case.image)
    assert sum(result.num_skipped for result in results.values()) > 0
    labels = put_together(layout, results, case.image)
    assert (labels[0, :, 34:] == 0).all()
    np.testing.assert_array_equal(labels[:, :, :12], whole[:, :, :12])
    skipping._skip = SkipRule(channel=0, below=1e6)
    assert (put_together(layout, run(skipping, layout, case.image), case.image) == 0).all()
