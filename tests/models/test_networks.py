from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from unet_batch.errors import SpecError
from unet_batch.models.networks import NETWORKS, Definition, build_network, define_network
from unet_batch.planning.volume_info import Json

SMALL: dict[str, dict[str, Json]] = {
    "residual_unet": {"channels": [4, 8], "num_res_units": 1},
    "unet": {"channels": [4, 8, 8]},
    "basic_unet": {"features": [4, 4, 8, 8, 8, 4]},
    "unet_plus_plus": {"channels": [4, 8, 8], "deep_supervision": True},
    "attention_unet": {"channels": [4, 8, 8]},
    "dynunet": {"filters": [4, 8, 8, 8], "deep_supervision": 2},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "vnet": {},
    "fcn": {"channels": [4, 8, 8], "convs": [1, 1, 1], "hidden": 8, "context": 3},
    "segnet": {"channels": [4, 8], "convs": [1, 2]},
    "pspnet": {"width": 4, "blocks": [1, 1, 1, 1], "deep_supervision": True},
    "deepmedic": {"channels": [4, 4], "hidden": [8]},
}
ONE_DIMENSION = {("pspnet", 3), ("deepmedic", 2)}
CASES = [(name, dims) for name in NETWORKS for dims in (2, 3) if (name, dims) not in ONE_DIMENSION]


def define(name: str, spatial_dims: int, **arguments: Json) -> Definition:
    return define_network(
        name,
        spatial_dims=spatial_dims,
        in_channels=2,
        out_channels=3,
        arguments=arguments or SMALL[name],
    )


def odd_tile(definition: Definition) -> tuple[int, ...]:
    """Three times the divisor, so that no axis divides further; 17 where anything will do."""
    return tuple(3 * n if n > 1 else 17 for n in definition.divisor)


def run_on_meta(definition: Definition, tile: tuple[int, ...], *, train: bool = False) -> object:
    with torch.device("meta"):
        return definition.build().train(train)(torch.empty(2, 2, *tile))


@pytest.mark.parametrize(("name", "spatial_dims"), CASES)
def test_tiles_that_the_divisor_divides_come_back_with_a_channel_a_class(
    name: str, spatial_dims: int
) -> None:
    definition = define(name, spatial_dims)
    tile = odd_tile(definition)
    logits = run_on_meta(definition, tile)
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 3, *tile)


@pytest.mark.parametrize(("name", "spatial_dims"), CASES)
def test_networks_of_full_size_keep_the_tile_too(name: str, spatial_dims: int) -> None:
    definition = define_network(
        name, spatial_dims=spatial_dims, in_channels=2, out_channels=3, arguments={}
    )
    logits = run_on_meta(definition, odd_tile(definition))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 3, *odd_tile(definition))


@pytest.mark.parametrize(("name", "spatial_dims"), CASES)
def test_in_training_the_first_logits_are_those_of_the_tile_and_the_others_get_coarser(
    name: str, spatial_dims: int
) -> None:
    definition = define(name, spatial_dims)
    tile = odd_tile(definition)
    outputs = run_on_meta(definition, tile, train=True)
    levels = outputs if isinstance(outputs, list) else [outputs]
    supervised = {"unet_plus_plus": 2, "dynunet": 3, "pspnet": 2}
    assert len(levels) == supervised.get(name, 1)
    assert levels[0].shape == (2, 3, *tile)
    sizes = [level.shape[2:].numel() for level in levels]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("name", "spatial_dims"), CASES)
def test_every_weight_is_trained(name: str, spatial_dims: int) -> None:
    """A weight without gradient stops distributed training."""
    definition = define(name, spatial_dims)
    with torch.device("meta"):
        network = definition.build()
        outputs = network(torch.empty(2, 2, *odd_tile(definition)))
        levels = outputs if isinstance(outputs, list) else [outputs]
        torch.stack([level.mean() for level in levels]).sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", ["residual_unet", "unet", "attention_unet", "dynunet", "vnet"])
def test_what_the_divisor_does_not_divide_does_not_come_back(name: str) -> None:
    definition = define(name, 3)
    tile = tuple(n + 1 for n in odd_tile(definition))
    try:
        logits = run_on_meta(definition, tile)
    except RuntimeError:
        return
    assert isinstance(logits, torch.Tensor)
    assert logits.shape[2:] != tile


@pytest.mark.parametrize(("name", "spatial_dims"), CASES)
def test_monai_builds_the_same_network_from_the_definition(name: str, spatial_dims: int) -> None:
    definition = define(name, spatial_dims)
    with torch.device("meta"):
        parser = ConfigParser({"network_def": definition.monai_config()})
        theirs = parser.get_parsed_content("network_def").state_dict()
        ours = definition.build().state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_monais_dynunet_gives_the_same_logits() -> None:
    definition = define("dynunet", 3)
    ours = definition.build().eval()
    theirs = ConfigParser({"it": definition.monai_config()}).get_parsed_content("it").eval()
    theirs.load_state_dict(ours.state_dict())
    tile = torch.randn(1, 2, 16, 16, 16)
    assert type(theirs) is not type(ours)
    assert torch.equal(ours(tile), theirs(tile))


def test_the_divisor_follows_the_strides_of_each_axis() -> None:
    strides: Json = [[1, 2, 2], [2, 2, 2]]
    assert define("residual_unet", 3, channels=[4, 8, 8], strides=strides).divisor == (2, 4, 4)
    assert define("attention_unet", 3, channels=[4, 8, 8], strides=strides).divisor == (2, 4, 4)
    flat = define("dynunet", 3, filters=[4, 8, 8], strides=strides, kernels=[[1, 3, 3], 3, 3])
    assert flat.divisor == (2, 4, 4)
    assert flat.arguments["kernel_size"][0] == [1, 3, 3]


@pytest.mark.parametrize(("name", "spatial_dims"), sorted(ONE_DIMENSION))
def test_a_network_that_does_not_exist_in_a_dimension_says_so(name: str, spatial_dims: int) -> None:
    with pytest.raises(SpecError, match=rf"{name!r} exists in \dD only|{name!r} exists in"):
        define(name, spatial_dims)


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
        ("unet", {"channels": [4]}, "at least 2"),
        ("basic_unet", {"features": [4, 4]}, "expected 6 numbers"),
        ("dynunet", {"filters": [4, 8]}, "at least 3"),
        ("dynunet", {"deep_supervision": 4}, "0 to 3 levels"),
        ("dynunet", {"kernels": [2, 2, 2, 2, 2]}, "expected 5 kernels"),
        ("segresnet", {"blocks_up": [1]}, "expected 3 numbers"),
        ("fcn", {"convs": [1, 1, 1]}, "expected 5 numbers"),
        ("fcn", {"context": 6}, "an odd number"),
        ("deepmedic", {"factor": 0}, "factor"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_reason(
    name: str, arguments: dict[str, Json], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        build_network(name, spatial_dims=3, in_channels=1, out_channels=2, arguments=arguments)


def test_vnet_says_which_channels_it_takes() -> None:
    with pytest.raises(SpecError, match="1, 2, 4, 8 or 16 channels, got 3"):
        build_network("vnet", spatial_dims=2, in_channels=3, out_channels=2, arguments={})
