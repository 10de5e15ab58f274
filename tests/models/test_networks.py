from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from unet_batch.errors import SpecError
from unet_batch.models.networks import NETWORKS, build_network, define_network
from unet_batch.planning.volume_info import Json

SMALL: dict[str, dict[str, Json]] = {
    "residual_unet": {"channels": [4, 8], "num_res_units": 1},
    "unet": {"features": [4, 4, 8, 8, 8, 4]},
    "basic_unet": {"features": [4, 4, 8, 8, 8, 4]},
    "dynunet": {"filters": [4, 8, 8]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
}


def small(name: str, spatial_dims: int = 3) -> torch.nn.Module:
    return build_network(
        name, spatial_dims=spatial_dims, in_channels=2, out_channels=3, arguments=SMALL[name]
    )


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_the_tile_and_gives_a_channel_a_class(
    name: str, spatial_dims: int
) -> None:
    tile = (16,) * spatial_dims
    assert small(name, spatial_dims).eval()(torch.zeros(1, 2, *tile)).shape == (1, 3, *tile)


@pytest.mark.parametrize("name", NETWORKS)
def test_monai_builds_the_same_network_from_the_definition(name: str) -> None:
    definition = define_network(
        name, spatial_dims=3, in_channels=2, out_channels=3, arguments=SMALL[name]
    )
    theirs = ConfigParser({"network_def": definition.monai_config()}).get_parsed_content(
        "network_def"
    )
    ours = small(name).state_dict()
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {
        k: v.shape for k, v in ours.items()
    }


def test_the_divisor_follows_the_strides_of_each_axis() -> None:
    arguments: dict[str, Json] = {"channels": [4, 8, 8], "strides": [[1, 2, 2], [2, 2, 2]]}
    definition = define_network(
        "residual_unet", spatial_dims=3, in_channels=1, out_channels=2, arguments=arguments
    )
    assert definition.divisor == (2, 4, 4)


def test_the_original_unet_has_its_five_levels() -> None:
    definition = define_network("unet", spatial_dims=2, in_channels=1, out_channels=2, arguments={})
    assert definition.arguments["features"] == [64, 128, 256, 512, 1024, 64]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("os.system", {}, "residual_unet, unet"),
        ("residual_unet", {"command": "x"}, "it takes channels"),
        ("residual_unet", {"channels": []}, "channels"),
        ("residual_unet", {"channels": [10**9, 2]}, "1 to 4096"),
        ("residual_unet", {"channels": "many"}, "channels"),
        ("residual_unet", {"strides": [2, 2]}, "expected 4 strides"),
        ("residual_unet", {"norm": "NONE SUCH"}, "cannot be built"),
        ("basic_unet", {"features": [4, 4]}, "expected 6 numbers"),
        ("dynunet", {"filters": [4, 8]}, "at least 3"),
        ("segresnet", {"blocks_up": [1]}, "expected 3 numbers"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_reason(
    name: str, arguments: dict[str, Json], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        build_network(name, spatial_dims=3, in_channels=1, out_channels=2, arguments=arguments)
