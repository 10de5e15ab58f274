"""A rewritten network computes what it did."""

from __future__ import annotations

import pytest
import torch

from unet_batch.inference.rewriting import rewritten
from unet_batch.inference.rewriting.last_unit import LastUnit
from unet_batch.inference.rewriting.upsampling import PhaseUpsampling
from unet_batch.models.networks import build_network


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


def count(network: torch.nn.Module, *kinds: type[torch.nn.Module]) -> int:
    return sum(isinstance(one, kinds) for one in network.modules())


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
        torch.testing.assert_close(PhaseUpsampling(layer)(coarse), layer(coarse), atol=0.02, rtol=0)


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
