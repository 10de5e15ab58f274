"""What runs on a GPU gives the CPU's labels: its sums and late results here, the rest on one.

Tests marked `gpu` need a GPU and are skipped, visibly, where there is none.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unet_batch.errors import SpecError
from unet_batch.inference import choosing, slab
from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.choosing import EngineKind, load_engine
from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.graph_engine import MAX_GRAPHS, GraphEngine
from unet_batch.inference.head import Head
from unet_batch.inference.pacing import Pace
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.sums import DeviceSums, HostSums
from unet_batch.inference.transfer import Fetch, HostTransfer, transfer_for
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid

UNCHANGED = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)  # zscore with mean 0, std 1
ROI, CLASSES = (6, 6, 6), 3
CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, CLASSES, 3, padding=1)


def make_predictor(device: torch.device, kind: EngineKind = "torch") -> Predictor:
    frame = Frame(1, CLASSES, ROI)
    engines = {"torch": TorchEngine, "cuda_graph": GraphEngine}
    return Predictor(
        engines[kind](make_network(), frame, precision="fp32", device=device),
        intensity=IntensitySpec(mode="zscore"),
        head=Head(tuple(range(CLASSES))),
        importance="gaussian",
        batch_size=3,
    )


def layouts() -> list[BlockLayout]:
    """Small ones, and one of several Sweeps and Blocks with Seams between them."""
    small = [
        BlockLayout.whole(TileGrid.of(shape, ROI, 0.5))
        for shape in [(6, 6, 6), (5, 4, 3), (9, 13, 6)]
    ]
    grid = TileGrid.of((30, 12, 12), ROI, 0.5)
    return [*small, BlockLayout(grid, 0, ((0, 4), (0, 2), (0,)), 2)]


def cells(predictor: Predictor, *, statistics: ChannelStatistics = UNCHANGED) -> list[Any]:
    """Results of all Blocks: the small ones in one call, the others in a call each."""
    random, found = np.random.default_rng(0), []
    orders, inputs = [], []
    for number, layout in enumerate(layouts()):
        image = random.normal(size=(1, *layout.grid.shape)).astype(np.float32)
        for sweep in range(len(layout.sweeps)):
            for block in layout.blocks(sweep):
                box = layout.input_box(block)
                whole = Box((0, *box.start), (1, *box.stop))
                orders.append(BlockOrder(f"v{number}", layout, block, (statistics,)))
                inputs.append([(whole, image[whole.slices])])
    found = predictor.predict(orders[:3], inputs[:3])
    for order, pieces in zip(orders[3:], inputs[3:], strict=True):
        found += predictor.predict([order], [pieces])
    return found


def assert_alike(
    found: list[Any], expected: list[Any], *, differing: float = 1e-3, atol: float = 1e-4
) -> None:
    """The same labels but for a share of `differing`, and the same sums to float tolerance."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.failure == ""
        assert (one.num_tiles, one.num_skipped) == (other.num_tiles, other.num_skipped)
        for a, b in zip(one.cells, other.cells, strict=True):
            if a.dtype == np.uint8:
                assert (a != b).mean() < differing  # where two classes are as good as equal
            else:
                np.testing.assert_allclose(a, b, atol=atol)


class LateTransfer(HostTransfer):
    """Copies what it is asked for at once, as a GPU would in its order, and hands it out late."""

    def __init__(self) -> None:
        self.waiting = 0

    def download(self, tensor: torch.Tensor) -> Fetch:
        copy = tensor.clone()
        if tensor.dtype != torch.bool:  # the sums' own flag
            tensor.fill_(7)  # nobody may need it any more
        self.waiting += 1

        def fetch() -> Any:
            self.waiting -= 1
            return copy.numpy()

        return fetch


@pytest.fixture
def device_like(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A Predictor on the CPU with all that is a GPU's but the GPU."""
    monkeypatch.setattr(slab, "HostSums", DeviceSums)
    predictor = make_predictor(CPU)
    predictor._transfer = LateTransfer()
    return predictor


def test_sums_of_a_device_and_late_results_give_the_same_labels(device_like: Predictor) -> None:
    assert_alike(cells(device_like), cells_of_the_cpu())
    assert device_like._transfer.waiting == 0  # type: ignore[attr-defined]


def cells_of_the_cpu() -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slab, "HostSums", HostSums)
        return cells(make_predictor(CPU))


def test_what_is_not_finite_is_told_late_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab, "HostSums", DeviceSums)
    broken = ChannelStatistics(0, 1, float("nan"), 1, {}, 1, 0, 1, 0)
    results = cells(make_predictor(CPU), statistics=broken)
    assert all("NaN or infinite" in one.failure for one in results[:3])
    assert all(not one.cells for one in results[:3])


@pytest.mark.parametrize("classes", [2, 61])
def test_device_sums_are_host_sums(classes: int) -> None:
    random = torch.Generator().manual_seed(0)
    shape, tile = (9, 8, 7), Box.from_shape(ROI)
    kinds = [
        kind(torch.zeros(classes, *ROI), shape, roi=ROI, importance="gaussian")
        for kind in (HostSums, DeviceSums)
    ]
    for start in [(0, 0, 0), (3, 2, 1), (1, 2, 0)]:
        logits = torch.randn((classes, *ROI), generator=random)
        for sums in kinds:
            sums.add(logits, tile.shift(start), tile)
    part = Box((1, 0, 2), (7, 8, 5))
    read = [torch.empty((classes, *part.shape)) for _ in kinds]
    labels = [torch.empty(part.shape, dtype=torch.uint8) for _ in kinds]
    for sums, values, found in zip(kinds, read, labels, strict=True):
        sums.read(part, values)
        sums.finish(part, found)
    torch.testing.assert_close(*read)
    torch.testing.assert_close(*labels)
    left = torch.empty((classes, *part.shape))
    kinds[1].take(part, left)
    assert not left.any()


def test_on_the_cpu_nothing_is_copied() -> None:
    transfer, array = transfer_for(CPU), np.arange(6, dtype=np.int16)
    assert transfer.upload(array).data_ptr() == array.ctypes.data
    tensor = torch.arange(3)
    assert transfer.download(tensor)().ctypes.data == tensor.data_ptr()


def test_cuda_graphs_want_a_gpu() -> None:
    bundle: Any = None
    with pytest.raises(SpecError, match=r"cuda_graph runs on a GPU, this Replica has cpu; ask"):
        load_engine("cuda_graph", [bundle], Frame(1, 2, ROI), precision="fp32", device=CPU)


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted when capturing")])
def test_a_network_that_cannot_be_captured_is_run_pass_by_pass(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Timed(Pace):
        def __init__(self, engine: Any, **_: object) -> None:
            if engine.kind == "cuda_graph":
                raise error
            self._found = [0.5]

        def measure(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(choosing, "load_engine", lambda kind, *_, **__: SimpleNamespace(kind=kind))
    monkeypatch.setattr(choosing, "Pace", Timed)
    choice = choosing.choose_engine(
        [], Frame(1, 2, ROI), precision="fp32", device=torch.device("cuda"), batch_size=2
    )
    assert (choice.kind, choice.seconds_per_tile) == ("torch", {"torch": 0.5})


@gpu
@pytest.mark.parametrize("kind", ["torch", "cuda_graph"])
def test_a_gpu_gives_the_labels_of_the_cpu(kind: EngineKind) -> None:
    torch.backends.cudnn.allow_tf32 = False
    predictor = make_predictor(torch.device("cuda"), kind)
    for _ in range(2):  # graphs that are replayed, memory that is used again
        assert_alike(cells(predictor), cells(make_predictor(CPU)))


@gpu
def test_passes_of_a_few_sizes_are_captured_and_all_are_right() -> None:
    device = torch.device("cuda")
    graphs = GraphEngine(make_network(), Frame(1, CLASSES, ROI), precision="fp32", device=device)
    plain = TorchEngine(make_network(), Frame(1, CLASSES, ROI), precision="fp32", device=device)
    with torch.inference_mode():
        for size in (4, 2, 3, 4, 2, 3):
            tiles = torch.randn((size, 1, *ROI), device=device)
            torch.testing.assert_close(graphs.forward(tiles), plain.forward(tiles))
    assert len(graphs._graphs) == MAX_GRAPHS


@gpu
def test_uploads_and_downloads_keep_every_voxel() -> None:
    transfer = transfer_for(torch.device("cuda"))
    arrays = [np.random.default_rng(k).integers(0, 999, 10**6, np.int16) for k in range(8)]
    fetches = [transfer.download(transfer.upload(array) * 2) for array in arrays]
    for fetch, array in zip(fetches, arrays, strict=True):
        np.testing.assert_array_equal(fetch(), array * 2)
