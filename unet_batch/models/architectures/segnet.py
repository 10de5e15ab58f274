"""SegNet: an encoder and its mirror image, which remembers where each maximum lay.

Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture
for Image Segmentation, PAMI 2017, section 3, on the 13 convolutions of VGG-16. What differs:
weights are not ImageNet's, and it is written for 3-D too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Pool
from torch import nn

from unet_batch.models.architectures.blocks import (
    convolution,
    draw_he_weights,
    several_convolutions,
)


class SegNet(nn.Module):
    """Stages of convolutions and max-pooling; the decoder puts values back where they were.

    `channels` and `convs` describe the encoder's stages, which the decoder mirrors; the last
    convolution of each of its stages makes the next finer stage's channels. Tiles of any
    size from 2 ** stages: what pooling leaves over at the border is zero when put back.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        convs: Sequence[int] = (2, 2, 3, 3, 3),
        norm: str | None = "BATCH",
    ) -> None:
        super().__init__()
        before = [in_channels, *channels[:-1]]
        self.encode = nn.ModuleList(
            several_convolutions(spatial_dims, [taken] + [made] * number, norm=norm)
            for taken, made, number in zip(before, channels, convs, strict=True)
        )
        finer = [channels[0], *channels[:-1]]
        self.decode = nn.ModuleList(
            several_convolutions(spatial_dims, [taken] * number + [made], norm=norm)
            for taken, made, number in zip(channels[::-1], finer[::-1], convs[::-1], strict=True)
        )
        self.pool = Pool[Pool.MAX, spatial_dims](2, return_indices=True)
        self.classify = convolution(spatial_dims, channels[0], out_channels, 1)
        draw_he_weights(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, *tile) of tiles (n, c, *tile)."""
        features = image
        places: list[tuple[torch.Tensor, torch.Size]] = []
        for encode in self.encode:
            features = encode(features)
            shape = features.shape
            features, indices = self.pool(features)
            places.append((indices, shape))
        for decode in self.decode:
            features = decode(_unpool(features, *places.pop()))
        logits: torch.Tensor = self.classify(features)
        return logits


def _unpool(features: torch.Tensor, indices: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """`features` at the voxels that `indices` (flat, from max-pooling) name, zero elsewhere.

    As `torch.nn.functional.max_unpool3d`, which OpenVINO cannot convert and which is not
    deterministic on a GPU; here no two values share a place.
    """
    voxels = features.new_zeros(*shape[:2], shape[2:].numel())
    return voxels.scatter(2, indices.flatten(2), features.flatten(2)).view(shape)
