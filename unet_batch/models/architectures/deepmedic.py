"""DeepMedic: two pathways, one at full and one at a third of the resolution. 3-D.

Kamnitsas et al.: Efficient multi-scale 3D CNN with fully connected CRF for accurate brain
lesion segmentation, Medical Image Analysis 2017, section 2 and figure 5 (without the CRF).

The original's convolutions do not pad: from 25 voxels a side, and from 19 of a field three
times as wide, it makes logits of the inner 9. Here they pad (`same`), and both pathways see
the same tile, so that logits have its size: the second sees means over 3 voxels a side, and its
features are repeated three times a side before they meet those of the first, as in the
original. Near a tile's border the context is cut, as with any padded network; tiles of 51
voxels a side or more hold the second pathway's whole field.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from unet_batch.models.architectures.blocks import convolution, draw_he_weights


class DeepMedic(nn.Module):
    """Eight 3-wide convolutions a pathway, then two hidden layers and one of classes, 1-wide.

    `channels` are those of each pathway's layers, `hidden` of the layers in common; `factor`
    is what the second pathway's resolution is divided by; `dropout` lies before the two last
    layers (section 3.2).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (30, 30, 40, 40, 40, 40, 50, 50),
        hidden: Sequence[int] = (150, 150),
        factor: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"DeepMedic is 3-D, got spatial_dims {spatial_dims}")
        self.factor = factor
        widths = [in_channels, *channels]
        self.fine, self.coarse = _pathway(widths), _pathway(widths)
        common = [2 * channels[-1], *hidden]
        self.common = nn.Sequential(
            *(
                nn.Sequential(nn.Dropout(dropout if k else 0.0), _layer(*pair, kernel_size=1))
                for k, pair in enumerate(pairwise(common))
            ),
            nn.Dropout(dropout),
        )
        self.classify = convolution(3, common[-1], out_channels, 1)
        draw_he_weights(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, *tile) of tiles (n, c, *tile), of any size."""
        size = image.shape[2:]
        z, y, x = (-(-length // self.factor) for length in size)
        context = self.coarse(nn.functional.adaptive_avg_pool3d(image, (z, y, x)))
        repeated = nn.functional.interpolate(context, size=tuple(size), mode="nearest")
        both = torch.cat([self.fine(image), repeated], dim=1)
        logits: torch.Tensor = self.classify(self.common(both))
        return logits


def _pathway(widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(_layer(*pair, kernel_size=3) for pair in pairwise(widths)))


def _layer(taken: int, made: int, *, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(3, taken, made, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm3d(made),
        nn.PReLU(made),
    )
