"""UNet: the original U-Net, in 2-D, and as Çiçek et al. carried it over to 3-D.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation,
MICCAI 2015, figure 1; Çiçek et al.: 3D U-Net, MICCAI 2016. What differs: convolutions pad
(`same`), so that logits have the size of the tile, and skips need no cropping.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.layers.factories import Pool
from torch import nn

from unet_batch.models.architectures.blocks import (
    convolution,
    draw_he_weights,
    two_convolutions,
    upconvolution,
)


class UNet(nn.Module):
    """Two 3-wide convolutions with ReLU a level; between levels 2-wide max-pooling.

        64 ──────────── concatenate ─▶ 128 → 64 → 1-wide convolution → logits
         └ pool ▶ 128 ─ concatenate ─▶ 256 ┘ 2-wide transposed convolution, half the channels
                   └ pool ▶ ...

    `channels` has a number for each level. `dropout` lies at the end of the contracting path,
    on its last two levels (section 3.1; the authors' Caffe model has 0.5). `norm` (`BATCH`,
    `INSTANCE`) is not the original's; it trains more easily with one.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        dropout: float = 0.5,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            two_convolutions(spatial_dims, *pair, norm=norm)
            for pair in pairwise([in_channels, *channels])
        )
        self.pool = Pool[Pool.MAX, spatial_dims](2)
        self.drop = nn.Dropout(dropout)
        climb = list(pairwise(reversed(channels)))
        self.enlarge = nn.ModuleList(upconvolution(spatial_dims, *pair) for pair in climb)
        self.up = nn.ModuleList(
            two_convolutions(spatial_dims, 2 * fine, fine, norm=norm) for _, fine in climb
        )
        self.classify = convolution(spatial_dims, channels[0], out_channels, 1)
        draw_he_weights(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, *tile) of tiles (n, c, *tile)."""
        skips: list[torch.Tensor] = []
        features = image
        for level, convolve in enumerate(self.down):
            features = convolve(self.pool(features) if level else features)
            if level >= len(self.down) - 2:
                features = self.drop(features)
            skips.append(features)
        del skips[-1]
        for enlarge, convolve in zip(self.enlarge, self.up, strict=True):
            features = convolve(torch.cat([skips.pop(), enlarge(features)], dim=1))
        logits: torch.Tensor = self.classify(features)
        return logits
