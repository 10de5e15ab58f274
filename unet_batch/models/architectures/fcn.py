"""FCN: the fully convolutional network that U-Nets are compared with, in its finest form, 8s.

Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015,
section 4 and figure 3, on the 16-layer VGG (Simonyan and Zisserman 2015). What differs:
convolutions pad (`same`) in place of the first one's 100 pixels, there may be a norm, weights
are not ImageNet's, and it is written for 3-D too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from unet_batch.models.architectures.blocks import (
    conv_norm_relu,
    convolution,
    crop_to,
    draw_he_weights,
    interpolate_to,
    several_convolutions,
)


class FCN(nn.Module):
    """VGG's stages, a score from each of the last three, summed from coarse to fine.

        stage 3, at 1/8 ──────────────── score ─ + ─ enlarged 8 times ▶ logits
        stage 4, at 1/16 ─────── score ─ + ─ x2 ─┘
        stage 5, at 1/32 ▶ fc6 ▶ fc7 ▶ score ─ x2 ─┘

    `convs` and `channels` describe the stages, each of which ends in a 2-wide max-pooling;
    `hidden` are the channels of fc6, `context` wide, and of fc7. The 2-fold enlargements
    are learnt and begin bilinear, the last is bilinear (the paper's footnote on fixed ones).
    Tiles of any size: pooling rounds up, and what is enlarged is cropped.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        convs: Sequence[int] = (2, 2, 3, 3, 3),
        hidden: int = 4096,
        context: int = 7,
        dropout: float = 0.5,
        norm: str | None = "BATCH",
    ) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.stages = nn.ModuleList(
            several_convolutions(spatial_dims, [taken] + [made] * number, norm=norm)
            for taken, made, number in zip(widths[:-1], channels, convs, strict=True)
        )
        self.pool = Pool[Pool.MAX, spatial_dims](2, ceil_mode=True)
        self.hidden = nn.Sequential(
            conv_norm_relu(spatial_dims, channels[-1], hidden, norm=norm, kernel_size=context),
            nn.Dropout(dropout),
            conv_norm_relu(spatial_dims, hidden, hidden, norm=norm, kernel_size=1),
            nn.Dropout(dropout),
        )
        draw_he_weights(self)
        scored = [hidden, channels[-2], channels[-3]]
        self.scores = nn.ModuleList(convolution(spatial_dims, n, out_channels, 1) for n in scored)
        self.enlarge = nn.ModuleList(_doubling(spatial_dims, out_channels) for _ in range(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, *tile) of tiles (n, c, *tile)."""
        features = image
        pooled: list[torch.Tensor] = []
        for stage in self.stages:
            features = self.pool(stage(features))
            pooled = [features, *pooled][:3]
        logits: torch.Tensor = self.scores[0](self.hidden(pooled[0]))
        for enlarge, score, finer in zip(self.enlarge, self.scores[1:], pooled[1:], strict=True):
            logits = score(finer) + crop_to(enlarge(logits), finer.shape[2:])
        return interpolate_to(logits, image.shape[2:])


def _doubling(spatial_dims: int, channels: int) -> nn.Module:
    """A transposed convolution that begins as linear interpolation by 2, channel by channel."""
    made: nn.Module = Conv[Conv.CONVTRANS, spatial_dims](
        channels, channels, 4, stride=2, padding=1, bias=False
    )
    profile = torch.tensor([0.25, 0.75, 0.75, 0.25])
    kernel = profile
    for _ in range(spatial_dims - 1):
        kernel = kernel[..., None] * profile
    alone = torch.eye(channels).view(channels, channels, *[1] * spatial_dims)
    with torch.no_grad():
        made.weight.copy_(alone * kernel)  # type: ignore[operator]
    return made
