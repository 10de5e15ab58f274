from __future__ import annotations

import pytest
import torch
from torch import nn

from unet_batch.errors import BundleError
from unet_batch.models.footprint import forward_cost, step_bytes
from unet_batch.models.networks import build_network


def activation_bytes(
    network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> int:
    return forward_cost(network, shape, dtype=dtype).num_bytes


def test_a_chain_holds_two_activations_at_its_worst() -> None:
    chain = nn.Sequential(*(nn.Conv3d(4, 4, 3, padding=1) for _ in range(5)))
    one = 4 * 8**3 * 4
    # The caller holds the input, and a layer its own input and output.
    assert activation_bytes(chain, (1, 4, 8, 8, 8)) == 3 * one


def test_skips_are_held_until_they_are_used() -> None:
    class Skip(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            early = x + 1
            late = early + 1
            late = late + 1
            return torch.cat([early, late], dim=1)

    one = 8**3 * 4
    assert activation_bytes(Skip(), (1, 1, 8, 8, 8)) == 5 * one


def test_views_and_changes_in_place_cost_nothing() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.ReLU(inplace=True))
    assert activation_bytes(network, (1, 2, 8, 8, 8)) == 2 * 8**3 * 4


def test_it_grows_with_the_batch_and_halves_in_bf16_and_leaves_the_network_alone() -> None:
    network = build_network(
        "residual_unet", spatial_dims=3, in_channels=1, out_channels=2, arguments={}
    )
    one = activation_bytes(network, (1, 1, 32, 32, 32))
    assert activation_bytes(network, (4, 1, 32, 32, 32)) == 4 * one
    assert 2 * activation_bytes(network, (1, 1, 32, 32, 32), dtype=torch.bfloat16) == one
    assert next(network.parameters()).device.type == "cpu"
    assert network.training


def test_a_multiply_add_is_two_operations() -> None:
    network = nn.Conv3d(4, 6, 3, padding=1, bias=False)
    cost = forward_cost(network, (2, 4, 8, 8, 8))
    assert cost.flops == 2 * 2 * 4 * 6 * 3**3 * 8**3


class Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if float(x.sum()) <= 0 else self.layer(-x)


def test_a_network_that_looks_at_values_is_run_on_one_tile() -> None:
    cost = forward_cost(Looking(), (4, 1, 8, 8, 8), dtype=torch.bfloat16)
    assert cost.num_bytes >= 4 * (1 + 2) * 8**3 * 4
    assert cost.flops == 4 * 2 * 2 * 8**3


def test_a_step_keeps_what_the_backward_pass_needs() -> None:
    chain = nn.Sequential(*(nn.Conv3d(4, 4, 3, padding=1) for _ in range(5)))
    one = 4 * 8**3 * 4
    assert step_bytes(chain, (1, 4, 8, 8, 8)) >= 6 * one > activation_bytes(chain, (1, 4, 8, 8, 8))


def test_a_tile_that_does_not_pass_is_refused_with_its_shape() -> None:
    network = build_network(
        "unet", spatial_dims=3, in_channels=1, out_channels=2, arguments={"channels": [4, 8]}
    )
    with pytest.raises(BundleError, match=r"does not take a batch \(4, 1, 9, 8, 8\)"):
        forward_cost(network, (4, 1, 9, 8, 8))
