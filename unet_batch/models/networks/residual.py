"""Encoder-decoders of residual blocks whose skips add up: SegResNet and V-Net."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import SegResNet, VNet

from unet_batch.errors import SpecError
from unet_batch.models.networks.definition import Definition, Frame, check_sizes

_VNET_CHANNELS = 16  # of its first level, which repeats the image's channels


def segresnet(
    frame: Frame,
    *,
    init_filters: int = 16,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
    norm: str = "BATCH",
    dropout: float | None = None,
) -> Definition:
    """SegResNet (Myronenko 2018): residual blocks a level, channels doubled, skips added.

    Its norms are batch norms, which fold into convolutions at inference; the paper's are group
    norms.
    """
    check_sizes(blocks_down=blocks_down, blocks_up=blocks_up, init_filters=init_filters)
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
    divisor = frame.every_axis(2 ** (len(blocks_down) - 1))
    return Definition.of(SegResNet, frame, arguments, divisor=divisor)


def vnet(frame: Frame, *, dropout: float = 0.5) -> Definition:
    """V-Net (Milletari et al. 2016): 5-wide convolutions, residual, 16 to 256 channels.

    As MONAI has it: with ELU where the paper has PReLU, and batch norms.
    Its first level adds the image to its 16 channels, so that the image must have 1, 2, 4, 8
    or 16 of its own.
    """
    if _VNET_CHANNELS % frame.in_channels:
        raise SpecError(
            f"network 'vnet' takes images of 1, 2, 4, 8 or 16 channels, got {frame.in_channels};"
            " choose channels at ingest, or another network"
        )
    arguments = {
        "act": ["elu", {"inplace": True}],
        "dropout_prob_down": dropout,
        "dropout_prob_up": [dropout, dropout],
        "dropout_dim": frame.spatial_dims,
    }
    return Definition.of(VNet, frame, arguments, divisor=frame.every_axis(16))
