"""Networks by name: an allow-list, so that a Bundle or Spec can never name code to run.

A name maps to a function that turns plain arguments into a `Definition`: the class and its
keyword arguments. The same Definition builds the network here and is written into a Bundle
as MONAI's `network_def`. To add a network, write such a function and list it in `NETWORKS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet

from unet_batch.errors import SpecError
from unet_batch.planning.volume_info import Json

Strides = Sequence[int | Sequence[int]]

# Bounds on what a file may ask for; far above any published U-Net.
_MAX_LEVELS, _MAX_CHANNELS, _MAX_UNITS = 12, 4096, 16


@dataclass(frozen=True, slots=True)
class Frame:
    """What the data fixes: spatial axes (2 or 3), channels in, classes out."""

    spatial_dims: int
    in_channels: int
    out_channels: int


@dataclass(frozen=True, slots=True)
class Definition:
    """A class of MONAI, its keyword arguments, and what tiles must be divisible by per axis."""

    target: type[torch.nn.Module]
    arguments: Mapping[str, Any]
    divisor: tuple[int, ...]

    def monai_config(self) -> dict[str, Any]:
        """The definition as a MONAI ConfigParser reads it."""
        return {"_target_": f"monai.networks.nets.{self.target.__name__}", **self.arguments}


def residual_unet(
    frame: Frame,
    *,
    channels: Sequence[int] = (16, 32, 64, 128, 256),
    strides: Strides | None = None,
    num_res_units: int = 2,
    norm: str = "BATCH",
    act: str = "PRELU",
    dropout: float = 0.0,
) -> Definition:
    """MONAI's residual U-Net: a strided convolution a level, residual units around it."""
    _check_sizes(channels=channels, num_res_units=num_res_units)
    steps = _axis_strides(frame, strides, len(channels) - 1)
    arguments = {
        "channels": list(channels),
        "strides": steps,
        "num_res_units": num_res_units,
        "norm": norm,
        "act": act,
        "dropout": dropout,
    }
    return Definition(UNet, _with_frame(frame, arguments), _divisor(steps))


def basic_unet(
    frame: Frame,
    *,
    features: Sequence[int] = (32, 32, 64, 128, 256, 32),
    norm: str = "BATCH",
    upsample: str = "deconv",
    dropout: float = 0.0,
) -> Definition:
    """Two convolutions a level, max-pooling, skips by concatenation.

    `features` are the channels of five levels and of the last convolutions.
    """
    if len(features) != 6:
        raise SpecError(f"basic_unet.features: expected 6 numbers, got {list(features)}")
    _check_sizes(features=features)
    arguments = {
        "features": list(features),
        "norm": norm,
        "upsample": upsample,
        "dropout": dropout,
    }
    return Definition(BasicUNet, _with_frame(frame, arguments), (16,) * frame.spatial_dims)


def dynunet(
    frame: Frame,
    *,
    filters: Sequence[int] = (32, 64, 128, 256, 320),
    strides: Strides | None = None,
    norm: str = "INSTANCE",
    res_block: bool = False,
) -> Definition:
    """nnU-Net's shape: 3-wide kernels, strided convolutions, `filters` a level."""
    _check_sizes(filters=filters)
    if len(filters) < 3:
        raise SpecError(f"dynunet.filters: expected at least 3 numbers, got {list(filters)}")
    steps = _axis_strides(frame, strides, len(filters) - 1)
    arguments = {
        "kernel_size": [[3] * frame.spatial_dims] * len(filters),
        "strides": [[1] * frame.spatial_dims, *steps],
        "upsample_kernel_size": steps,
        "filters": list(filters),
        "norm_name": [norm, {"affine": True}],
        "res_block": res_block,
    }
    return Definition(DynUNet, _with_frame(frame, arguments), _divisor(steps))


def segresnet(
    frame: Frame,
    *,
    init_filters: int = 16,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
    norm: str = "BATCH",
    dropout: float | None = None,
) -> Definition:
    """Residual blocks a level, channels doubled at each, skips by addition."""
    _check_sizes(blocks_down=blocks_down, blocks_up=blocks_up, init_filters=init_filters)
    if len(blocks_up) != len(blocks_down) - 1:
        raise SpecError(
            f"segresnet.blocks_up: expected {len(blocks_down) - 1} numbers, one fewer than"
            f" blocks_down, got {list(blocks_up)}"
        )
    arguments = {
        "init_filters": init_filters,
        "blocks_down": list(blocks_down),
        "blocks_up": list(blocks_up),
        "norm": norm,
        "dropout_prob": dropout,
    }
    divisor = (2 ** (len(blocks_down) - 1),) * frame.spatial_dims
    return Definition(SegResNet, _with_frame(frame, arguments), divisor)


NETWORKS: Mapping[str, Callable[..., Definition]] = {
    "residual_unet": residual_unet,
    # The shape of Ronneberger et al. 2015: five levels of 64 to 1024, two convolutions each,
    # max-pooling and 2-wide transposed convolutions; same padding in place of valid.
    "unet": partial(basic_unet, features=(64, 128, 256, 512, 1024, 64)),
    "basic_unet": basic_unet,
    "dynunet": dynunet,
    "segresnet": segresnet,
}


def define_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    arguments: Mapping[str, Json],
) -> Definition:
    """The Definition of the network `name`.

    Raises SpecError for an unknown name or argument, listing those there are, and for
    arguments that no network can be built from.
    """
    if name not in NETWORKS:
        raise SpecError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    known = [key for key in inspect.signature(NETWORKS[name]).parameters if key != "frame"]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise SpecError(
            f"network {name!r} takes no argument {', '.join(unknown)}; it takes {', '.join(known)}"
        )
    try:
        return NETWORKS[name](Frame(spatial_dims, in_channels, out_channels), **arguments)
    except (TypeError, ValueError) as error:
        raise _unbuildable(name, arguments, error) from error


def build_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    arguments: Mapping[str, Json],
) -> torch.nn.Module:
    """A freshly initialised network: (n, in_channels, *tile) to logits (n, out_channels, *tile).

    Raises SpecError as `define_network` does.
    """
    definition = define_network(
        name,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        arguments=arguments,
    )
    try:
        return definition.target(**definition.arguments)
    except (TypeError, ValueError, KeyError, IndexError, AssertionError, RuntimeError) as error:
        raise _unbuildable(name, arguments, error) from error


def _unbuildable(name: str, arguments: Mapping[str, Json], error: Exception) -> SpecError:
    return SpecError(f"network {name!r} cannot be built from {dict(arguments)}: {error}")


def _with_frame(frame: Frame, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "spatial_dims": frame.spatial_dims,
        "in_channels": frame.in_channels,
        "out_channels": frame.out_channels,
        **arguments,
    }


def _check_sizes(**sizes: int | Sequence[int]) -> None:
    for name, size in sizes.items():
        numbers = [size] if isinstance(size, int) else list(size)
        is_depth = name in {"num_res_units", "blocks_down", "blocks_up"}
        limit = _MAX_UNITS if is_depth else _MAX_CHANNELS
        least = 0 if name == "num_res_units" else 1
        if not 1 <= len(numbers) <= _MAX_LEVELS or not all(
            isinstance(n, int) and least <= n <= limit for n in numbers
        ):
            raise SpecError(
                f"network.arguments.{name}: expected up to {_MAX_LEVELS} numbers of {least} to"
                f" {limit}, got {size}"
            )


def _axis_strides(frame: Frame, strides: Strides | None, num_steps: int) -> list[list[int]]:
    """Strides per level and axis; 2 everywhere where `strides` is None."""
    wanted = [2] * num_steps if strides is None else list(strides)
    steps = [[s] * frame.spatial_dims if isinstance(s, int) else list(s) for s in wanted]
    if len(steps) != num_steps or any(
        len(step) != frame.spatial_dims or not set(step) <= {1, 2, 3, 4} for step in steps
    ):
        raise SpecError(
            f"network.arguments.strides: expected {num_steps} strides of 1 to 4, each a number or"
            f" {frame.spatial_dims} of them, got {wanted}"
        )
    return steps


def _divisor(steps: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(prod(axis) for axis in zip(*steps, strict=True))
