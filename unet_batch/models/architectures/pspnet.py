"""PSPNet: a dilated residual network, and means over ever larger parts of its field. 2-D.

Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017, section 3 and figure 3,
on a ResNet (He et al. 2016) with the three 3-wide convolutions of the authors' code at its
head. What differs: weights are not ImageNet's. MONAI and torch alone have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from unet_batch.models.architectures.blocks import (
    Supervised,
    conv_norm_relu,
    convolution,
    draw_he_weights,
    interpolate_to,
)

_EXPANSION = 4  # of a bottleneck's channels (He et al. 2016, figure 5)


class PSPNet(nn.Module):
    """Logits from features at 1/8 of the tile, together with their means over `bins` squared.

    `blocks` are the bottlenecks of the four stages: (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3)
    ResNet-101. `width` are the channels of the first; stages 3 and 4 keep the size and dilate
    by 2 and 4. With `deep_supervision` training mode returns the logits of stage 3 as well
    (section 3.3), at their own resolution. Tiles of any size; with `BATCH` norm, batches of
    two or more, since the mean over everything is one value a channel.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        blocks: Sequence[int] = (3, 4, 6, 3),
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        norm: str | None = "BATCH",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"PSPNet is 2-D, got spatial_dims {spatial_dims}")
        self.stem = nn.Sequential(
            conv_norm_relu(2, in_channels, width, norm=norm, stride=2),
            conv_norm_relu(2, width, width, norm=norm),
            conv_norm_relu(2, width, 2 * width, norm=norm),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        wide = width * _EXPANSION
        plan = zip((1, 2, 4, 8), blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        self.stages = nn.ModuleList()
        taken = 2 * width
        for factor, number, stride, dilation in plan:
            self.stages.append(_stage(taken, width * factor, number, stride, dilation, norm))
            taken = wide * factor
        part = taken // len(bins)
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size), conv_norm_relu(2, taken, part, norm=norm, kernel_size=1)
            )
            for size in bins
        )
        self.classify = _classifier(
            taken + part * len(bins), taken // 4, out_channels, dropout, norm
        )
        self.helper = (
            _classifier(taken // 2, taken // 8, out_channels, dropout, norm)
            if deep_supervision
            else None
        )
        draw_he_weights(self)

    def forward(self, image: torch.Tensor) -> Supervised:
        """Logits (n, classes, *tile); in training with deep supervision stage 3's as well."""
        features, before = self.stem(image), None
        for stage in self.stages:
            before, features = features, stage(features)
        size = features.shape[2:]
        means = [interpolate_to(level(features), size) for level in self.pyramid]
        logits = interpolate_to(self.classify(torch.cat([features, *means], 1)), image.shape[2:])
        if self.training and self.helper is not None:
            return [logits, self.helper(before)]
        return logits


class _Bottleneck(nn.Module):
    """1-wide, 3-wide and 1-wide convolutions beside a shortcut (He et al. 2016, figure 5)."""

    def __init__(
        self, taken: int, width: int, *, stride: int, dilation: int, norm: str | None
    ) -> None:
        super().__init__()
        made = width * _EXPANSION
        self.convolve = nn.Sequential(
            conv_norm_relu(2, taken, width, norm=norm, kernel_size=1),
            conv_norm_relu(2, width, width, norm=norm, stride=stride, dilation=dilation),
            conv_norm_relu(2, width, made, norm=norm, kernel_size=1)[:-1],
        )
        self.shortcut = (
            conv_norm_relu(2, taken, made, norm=norm, kernel_size=1, stride=stride)[:-1]
            if stride > 1 or taken != made
            else nn.Identity()
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.convolve(features) + self.shortcut(features))


def _stage(
    taken: int, width: int, number: int, stride: int, dilation: int, norm: str | None
) -> nn.Sequential:
    first = _Bottleneck(taken, width, stride=stride, dilation=dilation, norm=norm)
    rest = (
        _Bottleneck(width * _EXPANSION, width, stride=1, dilation=dilation, norm=norm)
        for _ in range(number - 1)
    )
    return nn.Sequential(first, *rest)


def _classifier(
    taken: int, width: int, num_classes: int, dropout: float, norm: str | None
) -> nn.Sequential:
    return nn.Sequential(
        conv_norm_relu(2, taken, width, norm=norm),
        nn.Dropout2d(dropout),
        convolution(2, width, num_classes, 1),
    )
