"""The last unit's kernel computes what torch's layers do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.blocks.convolutions import ResidualUnit

from unet_batch.inference.rewriting import rewritten
from unet_batch.inference.rewriting.last_unit import LastUnit
from unet_batch.models.process import use_threads

SLOPES = {
    "relu": torch.nn.ReLU(),
    "leaky": torch.nn.LeakyReLU(0.3),
    "prelu": torch.nn.PReLU(init=-0.5),
}


def make_network(
    classes: int, activation: str = "prelu", *, is_residual: bool = True
) -> list[torch.nn.Module]:
    """An upsampling of 5 channels, an activation and a convolution, and the same rewritten."""
    torch.manual_seed(classes)
    unit: torch.nn.Module = torch.nn.Conv3d(classes, classes, 3, padding=1)
    if is_residual:
        unit = ResidualUnit(3, classes, classes, subunits=1, last_conv_only=True)
    network = torch.nn.Sequential(
        torch.nn.ConvTranspose3d(5, classes, 3, 2, 1, output_padding=1),
        torch.nn.Identity(),
        SLOPES[activation],
        unit,
    ).eval()
    return [network, rewritten(network)]


def assert_same(network: torch.nn.Module, faster: torch.nn.Module, coarse: torch.Tensor) -> None:
    assert any(isinstance(one, LastUnit) for one in faster.modules())
    with torch.inference_mode():
        torch.testing.assert_close(faster(coarse), network(coarse), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("classes", [1, 2, 3, 4])
@pytest.mark.parametrize("is_residual", [True, False])
def test_it_gives_the_logits_of_the_layers(classes: int, *, is_residual: bool) -> None:
    network, faster = make_network(classes, is_residual=is_residual)
    assert_same(network, faster, torch.randn(2, 5, 4, 6, 5))


@pytest.mark.parametrize("activation", SLOPES)
def test_each_activation_has_its_slope(activation: str) -> None:
    network, faster = make_network(2, activation)
    assert_same(network, faster, torch.randn(1, 5, 3, 3, 3))


@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 3), st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
def test_shapes_of_any_length(coarse_zyx: tuple[int, int, int], count: int, threads: int) -> None:
    network, faster = make_network(3)
    use_threads(threads)
    assert_same(network, faster, torch.randn(count, 5, *coarse_zyx))


def test_rows_that_one_cache_does_not_hold_are_computed_in_strips() -> None:
    network, faster = make_network(4)
    assert_same(network, faster, torch.randn(1, 5, 2, 21, 48))  # 42 rows, in strips of 16


def test_a_tile_does_not_depend_on_its_neighbours_in_a_batch() -> None:
    _, faster = make_network(2)
    coarse = torch.randn(3, 5, 6, 6, 6)
    with torch.inference_mode():
        together = faster(coarse)
        pair = faster(coarse[1:])
    assert torch.equal(together[1:], pair)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_bfloat16_is_rounded_to_the_nearest(classes: int) -> None:
    network, _ = make_network(classes)
    faster = rewritten(network, torch.bfloat16)
    (unit,) = (one for one in faster.modules() if isinstance(one, LastUnit))
    coarse = torch.randn(1, 5, 5, 4, 3).bfloat16()
    with torch.inference_mode():
        phases = unit.upsampling.phases(coarse)
        unit.upsampling.phases = lambda _: phases.float()
        exact = unit(coarse)
        unit.upsampling.phases = lambda _: phases
        rounded = unit(coarse)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_a_number_stays_one_where_it_reaches(dtype: torch.dtype) -> None:
    network, _ = make_network(2)
    faster = rewritten(network, dtype)
    coarse = torch.zeros(1, 5, 6, 6, 6, dtype=dtype)
    coarse[0, 0, 2, 2, 2] = float("nan")
    with torch.inference_mode():
        logits = faster(coarse)
    assert logits[0, :, 4:6, 4:6, 4:6].isnan().all()
    assert logits[0, :, 10:].isfinite().all()


def test_infinite_logits_stay_infinite_in_bfloat16() -> None:
    network, _ = make_network(1)
    faster = rewritten(network, torch.bfloat16)
    coarse = torch.full((1, 5, 3, 3, 3), float("inf")).bfloat16()
    with torch.inference_mode():
        assert not faster(coarse)[0, :, 2:4, 2:4, 2:4].isfinite().any()


@pytest.mark.parametrize(
    "unit",
    [
        torch.nn.Conv3d(2, 2, 1),
        torch.nn.Conv3d(2, 3, 3, padding=1),
        torch.nn.Conv3d(2, 2, 3, padding=1, groups=2),
        torch.nn.Conv3d(2, 2, 3, padding=1, padding_mode="replicate"),
        torch.nn.Conv3d(2, 2, 3, padding=2, dilation=2),
        ResidualUnit(3, 2, 2, subunits=2),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv3d(2, 2, 3, padding=1)),
    ],
)
def test_another_unit_stays_with_torch(unit: torch.nn.Module) -> None:
    upsampling = torch.nn.ConvTranspose3d(5, 2, 3, 2, 1, output_padding=1)
    network = torch.nn.Sequential(upsampling, torch.nn.ReLU(), unit.eval()).eval()
    faster, coarse = rewritten(network), torch.randn(2, 5, 4, 4, 4)
    assert not any(isinstance(one, LastUnit) for one in faster.modules())
    with torch.inference_mode():
        torch.testing.assert_close(faster(coarse), network(coarse), atol=2e-5, rtol=1e-4)


def test_a_listener_inside_the_unit_keeps_it_with_torch() -> None:
    network, _ = make_network(2)
    heard: list[torch.Tensor] = []
    network[3].conv.register_forward_hook(lambda _, __, result: heard.append(result))
    faster, coarse = rewritten(network), torch.randn(2, 5, 4, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(faster(coarse), network(coarse), atol=2e-5, rtol=1e-4)
    assert len(heard) == 2
