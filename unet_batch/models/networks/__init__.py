"""Networks by name: an allow-list, so that a Bundle or Spec can never name code to run.

A name maps to a function that turns plain arguments into a `Definition`: the class and its
keyword arguments. The same Definition builds the network here and is written into a Bundle
as MONAI's `network_def`. To add a network, write such a function in the module of its family
and list it in `NETWORKS`; what a network takes and returns is said in `models.architectures`.

Code of the user's own, `package.module:callable`, is imported only where it is trusted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import torch

import unet_batch.models.lean_monai  # noqa: F401 (before anything imports MONAI)
from unet_batch.errors import SpecError
from unet_batch.models.networks.baselines import deepmedic, fcn, pspnet, segnet
from unet_batch.models.networks.definition import Definition, Frame
from unet_batch.models.networks.own import is_own, own_network
from unet_batch.models.networks.residual import segresnet, vnet
from unet_batch.models.networks.unets import (
    attention_unet,
    basic_unet,
    dynunet,
    residual_unet,
    unet,
    unet_plus_plus,
)
from unet_batch.planning.volume_info import Json

__all__ = ["NETWORKS", "Definition", "Frame", "build_network", "define_network", "is_own"]

NETWORKS: Mapping[str, Callable[..., Definition]] = {
    "residual_unet": residual_unet,
    "unet": unet,
    "basic_unet": basic_unet,
    "unet_plus_plus": unet_plus_plus,
    "attention_unet": attention_unet,
    "dynunet": dynunet,
    "segresnet": segresnet,
    "vnet": vnet,
    "fcn": fcn,
    "segnet": segnet,
    "pspnet": pspnet,
    "deepmedic": deepmedic,
}


def define_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    arguments: Mapping[str, Json],
    trust_network: bool = False,
) -> Definition:
    """The Definition of the network `name`.

    Raises SpecError for an unknown name or argument, listing those there are, for a network
    that does not exist in so many dimensions, for arguments that none can be built from, and
    for code of the user's own unless `trust_network`.
    """
    frame = Frame(spatial_dims, in_channels, out_channels)
    if is_own(name):
        return own_network(name, frame, arguments, trusted=trust_network)
    if name not in NETWORKS:
        raise SpecError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    known = [key for key in inspect.signature(NETWORKS[name]).parameters if key != "frame"]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise SpecError(
            f"network {name!r} takes no argument {', '.join(unknown)}; it takes {', '.join(known)}"
        )
    try:
        return NETWORKS[name](frame, **arguments)
    except (TypeError, ValueError) as error:
        raise _unbuildable(name, arguments, error) from error


def build_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    arguments: Mapping[str, Json],
    trust_network: bool = False,
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
        trust_network=trust_network,
    )
    try:
        network = definition.build()
    except (TypeError, ValueError, KeyError, IndexError, AssertionError, RuntimeError) as error:
        raise _unbuildable(name, arguments, error) from error
    if not isinstance(network, torch.nn.Module):
        raise SpecError(
            f"network {name!r} gave a {type(network).__name__}, expected a torch.nn.Module"
        )
    return network


def _unbuildable(name: str, arguments: Mapping[str, Json], error: Exception) -> SpecError:
    return SpecError(f"network {name!r} cannot be built from {dict(arguments)}: {error}")
