"""A rewritten network computes what it did."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.layers.simplelayers import SkipConnection

from unet_batch.inference.rewriting import rewritten
from unet_batch.inference.rewriting.convolutions import PackedConvolution
from unet_batch.inference.rewriting.joints import OpenSkip, ResidualSum
from unet_batch.inference.rewriting.upsampling import PhaseUpsampling
from unet_batch.models.networks import build_network

from .comparing import count, strayed


def trained(name: str, *, dims: int = 3, classes: int = 2, **arguments: object) -> torch.nn.Module:
    """A network whose batch normalisations have seen data."""
    torch.manual_seed(0)
    network = build_network(
        name, spatial_dims=dims, in_channels=1, out_channels=classes, arguments=arguments
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
    return network.eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [1, 2, 4, 7])
def test_a_residual_unet_gives_the_same_logits(dims: int, classes: int) -> None:
    network = trained("residual_unet", dims=dims, classes=classes, channels=[4, 8, 16])
    faster = rewritten(network)
    tiles = torch.randn(2, 1, *(16, 8, 24)[-dims:])
    with torch.inference_mode():
        torch.testing.assert_close(faster(tiles), network(tiles), atol=1e-5, rtol=1e-4)
    assert count(faster, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d) == 0
    assert count(faster, PhaseUpsampling) >= (classes <= 4)


def test_the_network_itself_is_left_as_it_was() -> None:
    network = trained("residual_unet", channels=[4, 8])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rewritten(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("basic_unet", {"features": [4, 4, 8, 8, 8, 4]}),
        ("dynunet", {"filters": [4, 8, 8]}),
        ("segresnet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
    ],
)
def test_other_networks_give_the_same_logits(name: str, arguments: dict[str, object]) -> None:
    network = trained(name, **arguments)
    tiles = torch.randn(2, 1, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(rewritten(network)(tiles), network(tiles), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_upsampling_is_laid_out_in_any_word_length(classes: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose3d(5, classes, 3, 2, 1, output_padding=1).to(dtype)
    coarse = torch.randn(2, 5, 3, 4, 5, dtype=dtype).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        torch.testing.assert_close(
            PhaseUpsampling(layer, dtype)(coarse), layer(coarse), atol=0.02, rtol=0
        )


def test_what_is_not_a_doubling_stays() -> None:
    network = torch.nn.Sequential(
        torch.nn.ConvTranspose3d(4, 2, 2, 2),
        torch.nn.ConvTranspose3d(2, 2, 3, 2, 1, output_padding=1, groups=2),
        torch.nn.ConvTranspose3d(2, 8, 3, 2, 1, output_padding=1),
    )
    assert count(rewritten(network), PhaseUpsampling) == 0


def test_a_norm_that_something_listens_to_stays() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
    network[0].register_forward_hook(lambda *_: None)
    assert count(rewritten(network), torch.nn.BatchNorm3d) == 1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 7])
def test_bfloat16_strays_no_further_than_under_autocast(dims: int, classes: int) -> None:
    network = trained("residual_unet", dims=dims, classes=classes, channels=[8, 16, 32])
    faster = rewritten(network, torch.bfloat16)
    tiles = torch.randn(4, 1, *(32, 16, 24)[-dims:])
    found = strayed(network, faster, tiles)
    assert found.faster < 1.1 * found.plain


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=2),
        torch.nn.Conv3d(4, 6, 3, bias=False),
        torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        torch.nn.ConvTranspose3d(4, 6, (2, 3, 3), stride=(2, 1, 2), padding=(0, 1, 1), groups=2),
    ],
)
@pytest.mark.parametrize(
    "activation", [torch.nn.LeakyReLU(0.2), torch.nn.PReLU(init=0.4), torch.nn.PReLU(init=-1)]
)
def test_a_convolution_is_joined_with_its_activation(
    layer: torch.nn.Module, activation: torch.nn.Module
) -> None:
    network = torch.nn.Sequential(layer, torch.nn.Dropout(), activation).eval()
    faster = rewritten(network)
    tiles = torch.randn(2, 4, *(9, 8, 7)[: layer.weight.ndim - 2])
    with torch.inference_mode():
        torch.testing.assert_close(faster(tiles), network(tiles), atol=1e-5, rtol=1e-4)
    assert count(faster, PackedConvolution) == 1
    assert count(faster, type(activation)) == 0


@pytest.mark.parametrize(
    "sequence",
    [
        [torch.nn.Conv3d(4, 6, 3), torch.nn.ReLU()],
        [torch.nn.Conv3d(4, 6, 3, padding="same"), torch.nn.LeakyReLU()],
        [torch.nn.Conv3d(4, 6, 3, padding=1, padding_mode="reflect"), torch.nn.LeakyReLU()],
        [torch.nn.Conv3d(4, 6, 3), torch.nn.PReLU(6)],
        [torch.nn.Conv3d(4, 6, 3), torch.nn.Sigmoid()],
        [torch.nn.Conv3d(4, 6, 3), torch.nn.GroupNorm(2, 6), torch.nn.LeakyReLU()],
    ],
)
def test_what_onednn_does_not_join_stays(sequence: list[torch.nn.Module]) -> None:
    network = torch.nn.Sequential(*sequence).eval()
    faster, tiles = rewritten(network), torch.randn(2, 4, 6, 6, 6)
    assert count(faster, type(sequence[-1])) == 1
    with torch.inference_mode():
        torch.testing.assert_close(faster(tiles), network(tiles), atol=1e-5, rtol=1e-4)


def test_a_convolution_that_something_listens_to_keeps_its_activation() -> None:
    heard: list[torch.Tensor] = []
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.LeakyReLU())
    network[0].register_forward_hook(lambda _, __, result: heard.append(result))
    rewritten(network)(torch.randn(1, 1, 4, 4, 4))
    assert heard[0].min() < 0


def test_a_listener_between_two_layers_hears_what_it_did() -> None:
    heard: list[torch.Tensor] = []
    inner = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3))
    network = torch.nn.Sequential(inner, torch.nn.Identity(), torch.nn.LeakyReLU()).eval()
    inner.register_forward_hook(lambda _, __, result: heard.append(result.clone()))
    network[1].register_forward_hook(lambda _, __, result: heard.append(result.clone()))
    tiles = torch.randn(1, 1, 4, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(rewritten(network)(tiles), network(tiles))
    first, second, *again = heard
    assert first.min() < 0
    assert all(torch.equal(first, one) for one in (second, *again))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.LeakyReLU(), torch.nn.PReLU()])
@pytest.mark.parametrize("kind", [torch.nn.Conv3d, torch.nn.ConvTranspose3d])
def test_what_is_not_a_number_is_not_hidden(
    kind: type[torch.nn.Module], activation: torch.nn.Module, dtype: torch.dtype
) -> None:
    network = rewritten(torch.nn.Sequential(kind(2, 16, 3), activation), dtype)
    tiles = torch.full((1, 2, 5, 5, 5), float("nan"), dtype=dtype)
    with torch.inference_mode(), torch.autocast("cpu", enabled=dtype == torch.bfloat16):
        assert network(tiles).isnan().all()


@pytest.mark.parametrize("dims", [2, 3])
def test_where_branches_meet_less_is_copied(dims: int) -> None:
    network = trained("residual_unet", dims=dims, channels=[8, 16, 32])
    faster = rewritten(network)
    assert count(faster, OpenSkip) == 1  # the one whose upsampling gives the classes
    in_the_last_unit = dims == 3
    assert count(faster, ResidualSum) == count(network, ResidualUnit) - in_the_last_unit
    assert count(faster, ResidualUnit) == 0


def test_what_goes_into_a_residual_unit_is_left_as_it_was() -> None:
    network = trained("residual_unet", channels=[4, 8, 16], strides=[1, 2])
    tiles = torch.randn(2, 1, 8, 8, 8)
    before = tiles.clone()
    with torch.inference_mode():
        rewritten(network)(tiles)
    assert torch.equal(tiles, before)


def test_a_skip_that_adds_stays() -> None:
    upsampling = torch.nn.ConvTranspose3d(4, 2, 3, 2, 1, output_padding=1)
    skip = SkipConnection(torch.nn.Conv3d(4, 4, 1), mode="add")
    network = torch.nn.Sequential(skip, upsampling).eval()
    faster, tiles = rewritten(network), torch.randn(2, 4, 3, 3, 3)
    assert count(faster, OpenSkip) == 0
    with torch.inference_mode():
        torch.testing.assert_close(faster(tiles), network(tiles), atol=1e-5, rtol=1e-4)


def test_a_processor_without_onednn_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = trained("residual_unet", channels=[8, 16, 32])
    faster, tiles = rewritten(network), torch.randn(2, 1, 16, 16, 16)
    assert count(faster, PackedConvolution, OpenSkip) == 0
    with torch.inference_mode():
        torch.testing.assert_close(faster(tiles), network(tiles), atol=1e-5, rtol=1e-4)
