"""Winograd convolutions give what direct ones do."""

from __future__ import annotations

import copy
import pickle

import numba
import pytest
import torch

from unet_batch.inference.rewriting import convolutions, rewritten, winograd
from unet_batch.inference.rewriting.convolutions import ChosenConvolution, PackedConvolution
from unet_batch.inference.rewriting.joints import OpenUpBlock
from unet_batch.inference.rewriting.winograd import WinogradConvolution
from unet_batch.models.networks import build_network
from unet_batch.models.process import use_threads

from .comparing import count, strayed

needs_vectors = pytest.mark.skipif(
    not winograd.has_bfloat16_vectors(), reason="the processor has no AVX-512 with bfloat16"
)
CONVOLUTIONS = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}


def make_layer(
    inputs: int, outputs: int, kernel: tuple[int, ...], *, bias: bool = True
) -> torch.nn.Module:
    """Weights that are multiples of four: what is made of them and of small integers is exact."""
    padding = tuple(n // 2 for n in kernel)
    layer = CONVOLUTIONS[len(kernel)](inputs, outputs, kernel, padding=padding, bias=bias)
    layer.requires_grad_(requires_grad=False)
    layer.weight.copy_(4 * torch.randint(-1, 2, layer.weight.shape))
    if bias:
        layer.bias.copy_(torch.randint(-9, 9, layer.bias.shape))
    return layer


def small_integers(*shape: int) -> torch.Tensor:
    return torch.randint(-3, 4, shape).to(torch.bfloat16)


def exact(layer: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
    """The results, rounded once."""
    return layer(values.float()).to(torch.bfloat16)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@needs_vectors
@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ((3, 3, 3), (5, 6, 8)),
        ((3, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 1, 1)),
        ((3, 3, 3), (9, 7, 25)),
        ((3, 3, 3), (30, 24, 26)),  # more planes than the cache holds at once
        ((1, 3, 3), (4, 5, 30)),
        ((3, 3), (9, 11)),
        ((3, 3), (64, 50)),
    ],
)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (64, 96)])
def test_results_are_exact_and_rounded_once(
    kernel: tuple[int, ...], size: tuple[int, ...], inputs: int, outputs: int
) -> None:
    layer = make_layer(inputs, outputs, kernel)
    values = small_integers(2, inputs, *size)
    result = WinogradConvolution(layer)(values)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, exact(layer, values))


@needs_vectors
@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 16, 6, 6, 6)],
        [(1, 128, 6, 6, 6)],
        [(64, 6, 6, 6)],
        [(1, 32, 6, 6, 6), (1, 32, 5, 6, 6)],
        [(1, 32, 6, 6, 6), (2, 32, 6, 6, 6)],
        [(1, 24, 6, 6, 6), (1, 40, 6, 6, 6)],
        [(1, 32, 6, 6, 6)] * 3,
    ],
)
def test_what_does_not_fit_is_refused(shapes: list[tuple[int, ...]]) -> None:
    convolution = WinogradConvolution(make_layer(64, 32, (3, 3, 3)))
    with pytest.raises(ValueError, match="a convolution of 64 channels in 3 dimensions got"):
        convolution([small_integers(*shape) for shape in shapes])


@needs_vectors
def test_it_can_be_copied_and_sent() -> None:
    convolution = WinogradConvolution(make_layer(32, 32, (3, 3)))
    values = small_integers(1, 32, 9, 9)
    for other in (copy.deepcopy(convolution), pickle.loads(pickle.dumps(convolution))):
        assert torch.equal(other(values), convolution(values))


def test_what_numba_does_not_compile_for_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", "skylake-avx512")
    winograd._features.cache_clear()
    try:
        assert winograd._features() == {}
    finally:
        winograd._features.cache_clear()


@needs_vectors
@pytest.mark.parametrize("channels", [320, 640])
def test_weights_larger_than_the_cache(channels: int) -> None:
    layer = make_layer(channels, 32, (3, 3, 3), bias=False)
    values = small_integers(1, channels, 7, 10, 12)
    assert torch.equal(WinogradConvolution(layer)(values), exact(layer, values))


@needs_vectors
def test_channels_come_in_parts() -> None:
    layer = make_layer(96, 32, (3, 3, 3))
    values = small_integers(2, 96, 6, 9, 10)
    winograds = WinogradConvolution(layer)
    parts = (values[:, :32], values[:, 32:].to(memory_format=torch.channels_last_3d))
    assert torch.equal(winograds(parts), winograds(values))


@needs_vectors
@pytest.mark.parametrize("slope", [0.0, 0.25, -1.0])
def test_the_activation_is_done_before_rounding(slope: float) -> None:
    layer = make_layer(32, 32, (3, 3, 3))
    values = small_integers(1, 32, 4, 5, 6)
    results = layer(values.float())
    expected = torch.where(results < 0, slope * results, results).to(torch.bfloat16)
    assert torch.equal(WinogradConvolution(layer, slope)(values), expected)


@needs_vectors
def test_any_numbers_stray_little_further_than_direct_ones() -> None:
    layer = torch.nn.Conv3d(64, 64, 3, padding=1).requires_grad_(requires_grad=False)
    values = torch.randn(1, 64, 12, 13, 14).to(torch.bfloat16)
    expected = layer.double()(values.double())
    layer.float()
    direct = PackedConvolution(layer, torch.bfloat16)(values) - expected
    ours = WinogradConvolution(layer)(values) - expected
    assert ours.std() < 2.2 * direct.std()
    assert ours.mean().abs() < 0.05 * ours.std()


@needs_vectors
def test_neither_threads_nor_neighbours_change_a_bit() -> None:
    layer = torch.nn.Conv3d(32, 32, 3, padding=1).requires_grad_(requires_grad=False)
    values = torch.randn(3, 32, 8, 22, 23).to(torch.bfloat16)
    convolution = WinogradConvolution(layer)
    use_threads(1)
    alone, together = convolution(values[1:2]), convolution(values)
    use_threads(2)
    assert torch.equal(convolution(values), together)
    assert torch.equal(together[1:2], alone)


@needs_vectors
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_not_hidden(broken: float) -> None:
    layer = make_layer(32, 32, (3, 3, 3))
    layer.weight.fill_(4.0)
    values = small_integers(1, 32, 8, 8, 8)
    values[0, 7, 3, 4, 5] = broken
    results = WinogradConvolution(layer, 0.01)(values)
    assert not results[0, :, 2:5, 3:6, 4:7].isfinite().any()
    assert results[0, :, 5:].isfinite().all()


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv3d(32, 32, 3),
        torch.nn.Conv3d(32, 32, 3, padding=1, stride=2),
        torch.nn.Conv3d(32, 32, 3, padding=2, dilation=2),
        torch.nn.Conv3d(32, 32, 3, padding=1, groups=2),
        torch.nn.Conv3d(32, 32, 3, padding=1, padding_mode="reflect"),
        torch.nn.Conv3d(32, 32, 3, padding="same"),
        torch.nn.Conv3d(32, 32, (3, 3, 1), padding=(1, 1, 0)),
        torch.nn.Conv3d(32, 32, 5, padding=2),
        torch.nn.Conv3d(16, 32, 3, padding=1),
        torch.nn.Conv3d(32, 48, 3, padding=1),
        torch.nn.ConvTranspose3d(32, 32, 3, padding=1),
    ],
)
def test_other_convolutions_are_left_alone(
    layer: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, vectors=True, tiles=False)
    assert not winograd.is_for_winograd(layer, torch.bfloat16)


def pretend(monkeypatch: pytest.MonkeyPatch, *, vectors: bool, tiles: bool) -> None:
    """Have the processor this and not that."""
    monkeypatch.setattr(winograd, "has_bfloat16_vectors", lambda: vectors)
    monkeypatch.setattr(winograd, "has_bfloat16_tiles", lambda: tiles)


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_for_processors_that_gain_by_it(
    vectors: bool, tiles: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, vectors=vectors, tiles=tiles)
    layer = torch.nn.Conv3d(32, 32, 3, padding=1)
    gains = vectors and not tiles and dtype == torch.bfloat16
    assert winograd.is_for_winograd(layer, dtype) == gains


@needs_vectors
@pytest.mark.parametrize(("width", "kind"), [(10, WinogradConvolution), (6, PackedConvolution)])
def test_the_first_tile_chooses(
    width: int, kind: type[torch.nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, vectors=True, tiles=False)
    network = torch.nn.Sequential(make_layer(64, 32, (3, 3, 3)), torch.nn.LeakyReLU(0.25)).eval()
    faster = rewritten(network, torch.bfloat16)
    for size in (width, 16 - width):
        values = small_integers(1, 64, size, size, size)
        expected = network(values.float()).to(torch.bfloat16)
        with torch.inference_mode():
            assert torch.equal(faster(values), expected)
            assert torch.equal(faster[0]((values[:, :32], values[:, 32:])), expected)
    assert count(faster, kind) == 1
    assert count(faster, ChosenConvolution) == 1
    assert count(faster, torch.nn.LeakyReLU, torch.nn.Conv3d) == 0


@needs_vectors
@pytest.mark.parametrize("dims", [2, 3])
def test_nnunets_shape_strays_little_further_than_under_autocast(
    dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, vectors=True, tiles=False)
    network = build_network(
        "dynunet",
        spatial_dims=dims,
        in_channels=1,
        out_channels=3,
        arguments={"filters": [32, 64, 96]},
    ).eval()
    faster = rewritten(network, torch.bfloat16)
    tiles = torch.randn(2, 1, *(24, 48, 40)[-dims:])
    found = strayed(network, faster, tiles)
    assert count(faster, OpenUpBlock) == 2
    assert count(faster, WinogradConvolution) >= 5
    assert found.faster < 1.4 * found.plain


def test_what_is_packed_elsewhere_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, vectors=False, tiles=False)
    network = torch.nn.Sequential(make_layer(32, 32, (3, 3, 3))).eval()
    convolutions.pack_convolutions(network, torch.bfloat16)
    assert count(network, PackedConvolution) == 1
