"""Instance norms done in place give what torch's give."""

from __future__ import annotations

import copy

import pytest
import torch

from unet_batch.inference.rewriting import rewritten
from unet_batch.inference.rewriting.instance_norms import INSTANCE_NORMS, InPlaceInstanceNorm
from unet_batch.models.networks import build_network
from unet_batch.models.process import use_threads

from .comparing import count

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def make_norm(channels: int, dims: int, *, affine: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    norm = INSTANCE_NORMS[dims - 2](channels, affine=affine)
    if affine:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return norm.eval().requires_grad_(requires_grad=False)


def make_tensor(*shape: int, mean: float = 0.5) -> torch.Tensor:
    tensor = mean + torch.randn(shape) * torch.linspace(0.1, 10, shape[1]).view(
        -1, *[1] * len(shape[2:])
    )
    return tensor.to(memory_format=LAYOUTS[len(shape)])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize(
    "shape", [(2, 5, 9, 8, 7), (1, 32, 4, 4, 130), (3, 17, 40, 60), (1, 1, 2, 3)]
)
def test_it_gives_what_torch_does(shape: tuple[int, ...], slope: float, affine: bool) -> None:
    norm, tensor = make_norm(shape[1], len(shape) - 2, affine=affine), make_tensor(*shape)
    expected = torch.nn.functional.leaky_relu(norm(tensor.contiguous()), slope)
    result = InPlaceInstanceNorm(norm, slope)(tensor)
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=1e-4)
    assert result.data_ptr() == tensor.data_ptr()


def test_a_mean_far_from_zero_costs_no_digits_of_the_variance() -> None:
    norm, tensor = make_norm(4, 3, affine=False), make_tensor(2, 4, 20, 20, 20, mean=5000.0)
    exact = norm(tensor.double().contiguous())
    ours = (InPlaceInstanceNorm(norm)(tensor.clone()) - exact).abs().amax(dim=(0, 2, 3, 4))
    torchs = (norm(tensor.contiguous()) - exact).abs().amax(dim=(0, 2, 3, 4))
    assert (ours <= 2 * torchs + 1e-6).all()


@pytest.mark.parametrize("channels", [3, 32])
def test_bfloat16_is_computed_in_float32_and_rounded_once(channels: int) -> None:
    norm, tensor = make_norm(channels, 3), make_tensor(2, channels, 12, 11, 10).bfloat16()
    exact = copy.deepcopy(norm).double()(tensor.double().contiguous()).bfloat16()
    result = InPlaceInstanceNorm(norm)(tensor)
    assert result.dtype == torch.bfloat16
    assert (result == exact).double().mean() > 0.999
    torch.testing.assert_close(result, exact, atol=1e-5, rtol=0.01)


def test_neither_threads_nor_neighbours_change_a_bit() -> None:
    norm, tensor = InPlaceInstanceNorm(make_norm(6, 3), 0.1), make_tensor(3, 6, 16, 17, 18)
    use_threads(1)
    alone = norm(tensor[1:2].clone(memory_format=torch.preserve_format))
    together = norm(tensor.clone())
    use_threads(2)
    assert torch.equal(norm(tensor.clone()), together)
    assert torch.equal(together[1:2], alone)


def test_what_is_not_a_number_is_not_hidden() -> None:
    tensor = make_tensor(2, 4, 8, 8, 8)
    tensor[0, 2, 3, 3, 3] = float("nan")
    result = InPlaceInstanceNorm(make_norm(4, 3), 0.1)(tensor)
    assert result[0, 2].isnan().all()
    assert result.isnan().sum() == 8**3


def test_a_channel_that_does_not_vary_becomes_the_bias() -> None:
    norm = make_norm(2, 3)
    tensor = torch.full((1, 2, 4, 4, 4), 7.0).to(memory_format=torch.channels_last_3d)
    expected = norm.bias.view(1, 2, 1, 1, 1).expand(1, 2, 4, 4, 4)
    torch.testing.assert_close(InPlaceInstanceNorm(norm)(tensor), expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dynunet", {"filters": [4, 8, 8]}),
        ("dynunet", {"filters": [4, 8, 8], "res_block": True}),
        ("basic_unet", {"features": [4, 4, 8, 8, 8, 4], "norm": "INSTANCE"}),
        ("unet_plus_plus", {"channels": [4, 8, 8], "norm": "INSTANCE"}),
    ],
)
def test_a_network_gives_the_same_logits(
    name: str, arguments: dict[str, object], dims: int
) -> None:
    torch.manual_seed(0)
    network = build_network(
        name, spatial_dims=dims, in_channels=1, out_channels=2, arguments=arguments
    ).eval()
    faster, tiles = rewritten(network), torch.randn(2, 1, *(32, 32, 48)[:dims])
    assert count(faster, *INSTANCE_NORMS) == 0
    assert count(faster, InPlaceInstanceNorm) == count(network, *INSTANCE_NORMS)
    with torch.inference_mode():
        torch.testing.assert_close(faster(tiles), network(tiles), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "sequence",
    [
        [torch.nn.InstanceNorm3d(4), torch.nn.Conv3d(4, 4, 3)],
        [torch.nn.Conv3d(4, 4, 3), torch.nn.ReLU(), torch.nn.InstanceNorm3d(4)],
        [torch.nn.Conv3d(4, 4, 3), torch.nn.InstanceNorm3d(4, track_running_stats=True)],
    ],
)
def test_where_others_may_read_what_goes_in_it_stays(sequence: list[torch.nn.Module]) -> None:
    network = torch.nn.Sequential(*sequence).eval()
    faster, tiles = rewritten(network), torch.randn(2, 4, 6, 6, 6)
    assert count(faster, InPlaceInstanceNorm) == 0
    with torch.inference_mode():
        torch.testing.assert_close(faster(tiles), network(tiles), atol=1e-5, rtol=1e-4)
