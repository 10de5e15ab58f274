"""The networks that U-Nets are compared with: FCN, SegNet, PSPNet, DeepMedic."""

from __future__ import annotations

from collections.abc import Sequence

from unet_batch.errors import SpecError
from unet_batch.models.architectures.deepmedic import DeepMedic
from unet_batch.models.architectures.fcn import FCN
from unet_batch.models.architectures.pspnet import PSPNet
from unet_batch.models.architectures.segnet import SegNet
from unet_batch.models.networks.definition import Definition, Frame, check_levels, check_sizes

_VGG_CHANNELS, _VGG_CONVS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)


def fcn(
    frame: Frame,
    *,
    channels: Sequence[int] = _VGG_CHANNELS,
    convs: Sequence[int] = _VGG_CONVS,
    hidden: int | None = None,
    context: int = 7,
    dropout: float = 0.5,
    norm: str | None = "BATCH",
) -> Definition:
    """FCN-8s (Long et al. 2015) on VGG-16; `hidden` is 4096 channels in 2-D, 512 in 3-D.

    In 3-D the 7-wide convolution of 4096 channels would have 719 million weights.
    """
    _check_stages("fcn", channels, convs, least=3)
    width = hidden or (4096 if frame.spatial_dims == 2 else 512)
    check_sizes(hidden=width, context=context)
    if context % 2 == 0:
        raise SpecError(f"network.arguments.context: expected an odd number, got {context}")
    arguments = {
        "channels": list(channels),
        "convs": list(convs),
        "hidden": width,
        "context": context,
        "dropout": dropout,
        "norm": norm,
    }
    return Definition.of(FCN, frame, arguments, divisor=frame.every_axis(1))


def segnet(
    frame: Frame,
    *,
    channels: Sequence[int] = _VGG_CHANNELS,
    convs: Sequence[int] = _VGG_CONVS,
    norm: str | None = "BATCH",
) -> Definition:
    """SegNet (Badrinarayanan et al. 2017) on VGG-16's convolutions."""
    _check_stages("segnet", channels, convs, least=1)
    arguments = {"channels": list(channels), "convs": list(convs), "norm": norm}
    return Definition.of(SegNet, frame, arguments, divisor=frame.every_axis(2 ** len(channels)))


def pspnet(
    frame: Frame,
    *,
    width: int = 64,
    blocks: Sequence[int] = (3, 4, 6, 3),
    bins: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.1,
    norm: str | None = "BATCH",
    deep_supervision: bool = False,
) -> Definition:
    """PSPNet (Zhao et al. 2017), 2-D, on a dilated ResNet-50; (3, 4, 23, 3) is ResNet-101."""
    _only(frame, 2, "pspnet", "fcn and segnet exist in 3-D too")
    check_sizes(width=width, blocks=blocks, bins=bins)
    check_levels("pspnet.blocks", blocks, 4, most=4)
    arguments = {
        "width": width,
        "blocks": list(blocks),
        "bins": list(bins),
        "dropout": dropout,
        "norm": norm,
        "deep_supervision": deep_supervision,
    }
    return Definition.of(PSPNet, frame, arguments, divisor=frame.every_axis(1))


def deepmedic(
    frame: Frame,
    *,
    channels: Sequence[int] = (30, 30, 40, 40, 40, 40, 50, 50),
    hidden: Sequence[int] = (150, 150),
    factor: int = 3,
    dropout: float = 0.5,
) -> Definition:
    """DeepMedic (Kamnitsas et al. 2017), 3-D: pathways at full and a third of the resolution."""
    _only(frame, 3, "deepmedic", "fcn and segnet exist in 2-D too")
    check_sizes(channels=channels, hidden=hidden, factor=factor)
    arguments = {
        "channels": list(channels),
        "hidden": list(hidden),
        "factor": factor,
        "dropout": dropout,
    }
    return Definition.of(DeepMedic, frame, arguments, divisor=frame.every_axis(1))


def _only(frame: Frame, dims: int, name: str, hint: str) -> None:
    if frame.spatial_dims != dims:
        raise SpecError(
            f"network {name!r} exists in {dims}-D only, got network.spatial_dims"
            f" {frame.spatial_dims}; {hint}"
        )


def _check_stages(name: str, channels: Sequence[int], convs: Sequence[int], *, least: int) -> None:
    check_sizes(channels=channels, convs=convs)
    check_levels(f"{name}.channels", channels, least)
    check_levels(f"{name}.convs", convs, len(channels), most=len(channels))
