"""The U-Nets: from the original to nnU-Net's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from monai.networks.nets import AttentionUnet, BasicUNet
from monai.networks.nets import UNet as ResidualUNet

from unet_batch.errors import SpecError
from unet_batch.models.architectures.dynunet import DynUNet
from unet_batch.models.architectures.unet import UNet
from unet_batch.models.architectures.unet_plus_plus import UNetPlusPlus
from unet_batch.models.networks.definition import (
    Definition,
    Frame,
    Strides,
    axis_kernels,
    axis_strides,
    check_levels,
    check_sizes,
    divisor_of,
)


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
    check_sizes(channels=channels, num_res_units=num_res_units)
    steps = axis_strides(frame, strides, len(channels) - 1)
    arguments = {
        "channels": list(channels),
        "strides": steps,
        "num_res_units": num_res_units,
        "norm": norm,
        "act": act,
        "dropout": dropout,
    }
    return Definition.of(ResidualUNet, frame, arguments, divisor=divisor_of(steps))


def unet(
    frame: Frame,
    *,
    channels: Sequence[int] = (64, 128, 256, 512, 1024),
    dropout: float = 0.5,
    norm: str | None = None,
) -> Definition:
    """The original U-Net (Ronneberger et al. 2015), padded; a norm where one is asked for."""
    check_sizes(channels=channels)
    check_levels("unet.channels", channels, 2)
    arguments = {"channels": list(channels), "dropout": dropout, "norm": norm}
    return Definition.of(UNet, frame, arguments, divisor=_halved(frame, len(channels)))


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
    check_levels("basic_unet.features", features, 6, most=6)
    check_sizes(features=features)
    arguments = {
        "features": list(features),
        "norm": norm,
        "upsample": upsample,
        "dropout": dropout,
    }
    return Definition.of(BasicUNet, frame, arguments, divisor=_halved(frame, 5))


def unet_plus_plus(
    frame: Frame,
    *,
    channels: Sequence[int] = (32, 64, 128, 256, 512),
    norm: str | None = "BATCH",
    deep_supervision: bool = False,
) -> Definition:
    """U-Net++ (Zhou et al. 2018): skips are dense chains of convolutions."""
    check_sizes(channels=channels)
    check_levels("unet_plus_plus.channels", channels, 2)
    arguments = {"channels": list(channels), "norm": norm, "deep_supervision": deep_supervision}
    return Definition.of(UNetPlusPlus, frame, arguments, divisor=_halved(frame, len(channels)))


def attention_unet(
    frame: Frame,
    *,
    channels: Sequence[int] = (16, 32, 64, 128, 256),
    strides: Strides | None = None,
    dropout: float = 0.0,
) -> Definition:
    """Attention U-Net (Oktay et al. 2018): gates on the skips, from the level below."""
    check_sizes(channels=channels)
    check_levels("attention_unet.channels", channels, 2)
    steps = axis_strides(frame, strides, len(channels) - 1)
    arguments = {"channels": list(channels), "strides": steps, "dropout": dropout}
    return Definition.of(AttentionUnet, frame, arguments, divisor=divisor_of(steps))


def dynunet(
    frame: Frame,
    *,
    filters: Sequence[int] = (32, 64, 128, 256, 320),
    strides: Strides | None = None,
    kernels: Strides | None = None,
    norm: str = "INSTANCE",
    res_block: bool = False,
    deep_supervision: int = 0,
) -> Definition:
    """nnU-Net's shape (Isensee et al. 2021): strided convolutions, `filters` a level.

    `strides` lead from each level to the next, `kernels` are those of the levels.
    `deep_supervision` is the number of coarser levels that are trained as well (nnU-Net: all
    but the two coarsest).
    """
    check_sizes(filters=filters)
    check_levels("dynunet.filters", filters, 3)
    steps = axis_strides(frame, strides, len(filters) - 1)
    if not 0 <= deep_supervision <= len(filters) - 2:
        raise SpecError(
            f"network.arguments.deep_supervision: expected 0 to {len(filters) - 2} levels with"
            f" {len(filters)} filters, got {deep_supervision}"
        )
    arguments = {
        "kernel_size": axis_kernels(frame, kernels, len(filters)),
        "strides": [[1] * frame.spatial_dims, *steps],
        "upsample_kernel_size": steps,
        "filters": list(filters),
        "norm_name": [norm, {"affine": True}],
        "res_block": res_block,
        "deep_supervision": deep_supervision > 0,
        "deep_supr_num": max(1, deep_supervision),
    }
    definition = Definition.of(DynUNet, frame, arguments, divisor=divisor_of(steps))
    return replace(definition, bundle_target="monai.networks.nets.DynUNet")


def _halved(frame: Frame, num_levels: int) -> tuple[int, ...]:
    """The divisor of `num_levels` levels, each half as large as the one before."""
    return frame.every_axis(2 ** (num_levels - 1))
