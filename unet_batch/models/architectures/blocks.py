"""The pieces that several architectures share, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from torch import nn

Supervised = torch.Tensor | list[torch.Tensor]
"""Logits; in training perhaps a list of them, the final ones first."""


def convolution(spatial_dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """`nn.Conv2d` or `nn.Conv3d`."""
    made: nn.Module = Conv[Conv.CONV, spatial_dims](*args, **kwargs)
    return made


def upconvolution(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """The 2-wide transposed convolution of stride 2 that doubles every axis."""
    made: nn.Module = Conv[Conv.CONVTRANS, spatial_dims](in_channels, out_channels, 2, stride=2)
    return made


def conv_norm_relu(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    norm: str | None,
    kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """A convolution with same padding, a norm (`BATCH`, `INSTANCE`; None: none), and a ReLU."""
    layers = [
        convolution(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=norm is None,
        )
    ]
    if norm is not None:
        layers.append(get_norm_layer(norm, spatial_dims, out_channels))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def two_convolutions(
    spatial_dims: int, in_channels: int, out_channels: int, *, norm: str | None
) -> nn.Sequential:
    """Two 3-wide convolutions, each with its norm and ReLU: a U-Net's block."""
    return nn.Sequential(
        conv_norm_relu(spatial_dims, in_channels, out_channels, norm=norm),
        conv_norm_relu(spatial_dims, out_channels, out_channels, norm=norm),
    )


def several_convolutions(
    spatial_dims: int, channels: Sequence[int], *, norm: str | None
) -> nn.Sequential:
    """3-wide convolutions from each of `channels` to the next: a stage of VGG."""
    return nn.Sequential(
        *(conv_norm_relu(spatial_dims, *pair, norm=norm) for pair in pairwise(channels))
    )


def interpolate_to(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """`features` (n, c, *any) at the spatial `size`, bilinear or trilinear."""
    mode = "bilinear" if features.dim() == 4 else "trilinear"
    return nn.functional.interpolate(features, tuple(size), mode=mode, align_corners=False)


def crop_to(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The corner of `features` (n, c, *any) that has the spatial `size`."""
    for axis, length in enumerate(size, start=2):
        features = features.narrow(axis, 0, length)
    return features


def draw_he_weights(network: nn.Module) -> None:
    """Gaussian weights of variance 2 / fan-in, and no bias (He et al. 2015).

    Ronneberger et al. 2015, section 3, asks for them by name.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
