"""Networks of the user's own: refused until trusted, then built, saved and loaded."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

from unet_batch.errors import BundleError, SpecError
from unet_batch.models.bundle import CONFIG, BundleConfig, load_bundle, save_bundle
from unet_batch.models.networks import build_network, define_network
from unet_batch.planning.volume_info import LabelClass

CODE = """
import torch

class Scaled(torch.nn.Module):
    divisor = (2, 4, 4)

    def __init__(self, spatial_dims, in_channels, out_channels, *, width=3):
        super().__init__()
        self.first = torch.nn.Conv3d(in_channels, width, 3, padding=1)
        self.last = torch.nn.Conv3d(width, out_channels, 1)
        # A buffer that no weights file holds.
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)

    def forward(self, image):
        return self.last(self.first(image)) * self.scale

def number(**arguments):
    return 7

CONSTANT = 3
"""
FRAME = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with networks, imported by nobody so far."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_networks.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return "my_networks"


def config(name: str) -> BundleConfig:
    return BundleConfig(
        name="own",
        network_name=name,
        network_arguments={"width": 5},
        channels=("a", "b"),
        roi=(8, 8, 8),
        classes=(LabelClass(0, "background"), LabelClass(1, "organ")),
        spacing_mm=(1, 1, 1),
    )


def test_code_is_not_imported_before_it_is_trusted(own: str) -> None:
    with pytest.raises(SpecError, match=r"'my_networks:Scaled' is code.*--trust-network"):
        build_network(f"{own}:Scaled", **FRAME, arguments={})
    assert own not in sys.modules


def test_a_trusted_network_is_built_with_its_arguments_and_divisor(own: str) -> None:
    definition = define_network(
        f"{own}:Scaled", **FRAME, arguments={"width": 5}, trust_network=True
    )
    assert definition.divisor == (2, 4, 4)
    assert definition.build().first.out_channels == 5
    assert definition.monai_config()["_target_"] == "my_networks.Scaled"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:Network", "cannot be imported"),
        ("my_networks:NoSuch", "cannot be imported"),
        ("my_networks:", "cannot be imported"),
        ("my_networks:CONSTANT", "expected a callable"),
        ("my_networks:number", "gave a int"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_is_no_network_is_said(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build_network(name, **FRAME, arguments={}, trust_network=True)


def test_arguments_that_do_not_fit_are_refused(own: str) -> None:
    with pytest.raises(SpecError, match="cannot be built from"):
        build_network(f"{own}:Scaled", **FRAME, arguments={"deep": 1}, trust_network=True)


def test_a_bundle_of_ones_own_loads_only_with_trust(own: str, tmp_path: Path) -> None:
    trusted = config(f"{own}:Scaled").trusting(trust_network=True)
    network = trusted.build_network().eval()
    saved = save_bundle(tmp_path / "b", trusted, network.state_dict())
    tile = torch.randn(1, 2, 8, 8, 8)
    loaded = load_bundle(tmp_path / "b", trust_network=True)
    assert torch.equal(loaded.network()(tile), network(tile))
    assert torch.equal(pickle.loads(pickle.dumps(saved)).network()(tile), network(tile))
    with pytest.raises(BundleError, match=r"'my_networks:Scaled' is code"):
        load_bundle(tmp_path / "b")


def test_a_bundle_cannot_ask_to_be_trusted(own: str, tmp_path: Path) -> None:
    trusted = config(f"{own}:Scaled").trusting(trust_network=True)
    save_bundle(tmp_path, trusted, trusted.build_network().state_dict())
    content = json.loads((tmp_path / CONFIG).read_text())
    assert not [key for key in content if "trust" in key]
    for key in ("_trust_network", "trust_network"):
        (tmp_path / CONFIG).write_text(json.dumps(content | {key: True}))
        with pytest.raises(BundleError, match=r"Extra inputs|is code"):
            load_bundle(tmp_path)
