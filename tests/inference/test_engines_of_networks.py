"""Engines give what the plain network gives, for the networks that are hardest to convert."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from unet_batch.inference import choosing
from unet_batch.inference.choosing import choose_engine, lanes_of
from unet_batch.inference.engine import Engine, Frame, TorchEngine
from unet_batch.models.networks import build_network
from unet_batch.models.precision import resolve_precision
from unet_batch.models.process import use_threads
from unet_batch.planning.volume_info import Json

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "roi", "arguments"),
    [
        ("dynunet", (16, 16, 16), {"filters": [4, 8, 8], "deep_supervision": 1}),
        ("segnet", (1, 16, 16), {"channels": [4, 8], "convs": [1, 1]}),
        ("deepmedic", (17, 16, 16), {"channels": [4], "hidden": [4]}),
    ],
)
def test_torch_and_openvino_give_the_plain_networks_logits(
    name: str, roi: tuple[int, int, int], arguments: dict[str, Json]
) -> None:
    openvino = pytest.importorskip("unet_batch.inference.openvino_engine")
    torch.manual_seed(0)
    is_planar = roi[0] == 1
    network = build_network(
        name, spatial_dims=3 - is_planar, in_channels=1, out_channels=2, arguments=arguments
    ).eval()
    tiles = torch.randn(2, 1, *roi)
    with torch.inference_mode():
        plain = network(tiles.squeeze(2) if is_planar else tiles).reshape(2, 2, *roi)
        frame = Frame(1, 2, roi, is_planar)
        engines: list[Engine] = [
            TorchEngine(network, frame, precision="fp32"),
            openvino.OpenVinoEngine(network, frame, precision="fp32"),
        ]
        for engine in engines:
            torch.testing.assert_close(engine.forward(tiles), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("residual_unet", {"channels": [4, 8, 16]}),
        ("unet", {"channels": [4, 8, 8]}),
        ("attention_unet", {"channels": [4, 8, 8]}),
        ("dynunet", {"filters": [4, 8, 8]}),
        ("segresnet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
    ],
)
def test_a_tile_does_not_depend_on_its_neighbours_in_a_batch(
    name: str, arguments: dict[str, Json], precision: Literal["fp32", "bf16"]
) -> None:
    if resolve_precision("auto", CPU) == "fp32" and precision == "bf16":
        pytest.skip("this processor has no bfloat16")
    torch.manual_seed(0)
    network = build_network(
        name, spatial_dims=3, in_channels=1, out_channels=2, arguments=arguments
    )
    use_threads(1)
    engine = TorchEngine(network, Frame(1, 2, (32, 16, 16)), precision=precision)
    tiles = engine.tiles(4).normal_()
    with torch.inference_mode():
        together = engine.forward(tiles)
        for count in range(engine.min_batch, 4):
            assert torch.equal(engine.forward(tiles[:count]), together[:count])


def test_nothing_is_reported_over_the_network() -> None:
    pytest.importorskip("unet_batch.inference.openvino_engine")
    from openvino.tools.ovc import convert_impl, telemetry_utils

    for module in (convert_impl, telemetry_utils):
        assert module.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_a_network_of_ones_own_is_never_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "has_openvino", lambda: True)
    own = SimpleNamespace(network_name="my.networks:Own")
    frame = Frame(1, 2, (8, 8, 8))
    choice = choose_engine([own], frame, precision="fp32", device=CPU, batch_size=2)  # type: ignore[list-item]
    assert (choice.kind, choice.seconds_per_tile) == ("torch", {})


def test_only_networks_of_ours_run_in_lanes_and_on_the_cpu_by_torch() -> None:
    ours, own = (SimpleNamespace(network_name=name) for name in ("unet", "my.networks:Own"))
    gpu = torch.device("cuda")
    assert lanes_of("torch", [ours], CPU, most=2) == 2  # type: ignore[list-item]
    assert lanes_of("torch", [ours, own], CPU, most=2) == 1  # type: ignore[list-item]
    assert lanes_of("torch", [ours], gpu, most=2) == 1  # type: ignore[list-item]
    assert lanes_of("openvino", [ours], CPU, most=2) == 1  # type: ignore[list-item]
