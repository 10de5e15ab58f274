"""UNetPlusPlus: a U-Net whose skips are dense chains of convolutions.

Zhou, Siddiquee, Tajbakhsh, Liang: UNet++: A Nested U-Net Architecture for Medical Image
Segmentation, DLMIA 2018, equation 1. MONAI's `BasicUNetPlusPlus` returns a list in eval mode
and holds heads that nothing trains, which distributed training refuses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Pool
from torch import nn

from unet_batch.models.architectures.blocks import (
    Supervised,
    convolution,
    two_convolutions,
    upconvolution,
)


class UNetPlusPlus(nn.Module):
    """Node (i, j) of level i takes all nodes before it on its level, and (i+1, j-1) enlarged.

        (0,0) ▶ (0,1) ▶ (0,2) ▶ logits
          └▼     ▲┘└▼     ▲┘
           (1,0) ▶ (1,1)         down: max-pooling    up: 2-wide transposed convolution
              └▼     ▲┘
               (2,0)

    With `deep_supervision` training mode returns the logits of (0, J), ..., (0, 1), all at
    the tile's size; eval mode those of (0, J), the deepest.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        norm: str | None = "BATCH",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.num_levels = len(channels)
        self.pool = Pool[Pool.MAX, spatial_dims](2)
        self.nodes, self.enlarge = nn.ModuleDict(), nn.ModuleDict()
        for i, width in enumerate(channels):
            before = channels[i - 1] if i else in_channels
            self.nodes[f"{i}_0"] = two_convolutions(spatial_dims, before, width, norm=norm)
            for j in range(1, self.num_levels - i):
                key, taken = f"{i}_{j}", (j + 1) * width
                self.enlarge[key] = upconvolution(spatial_dims, channels[i + 1], width)
                self.nodes[key] = two_convolutions(spatial_dims, taken, width, norm=norm)
        num_heads = self.num_levels - 1 if deep_supervision else 1
        self.heads = nn.ModuleList(
            convolution(spatial_dims, channels[0], out_channels, 1) for _ in range(num_heads)
        )

    def forward(self, image: torch.Tensor) -> Supervised:
        """Logits (n, classes, *tile); in training with deep supervision a list of them."""
        rows: list[list[torch.Tensor]] = []
        for i in range(self.num_levels):
            inputs = self.pool(rows[i - 1][0]) if i else image
            rows.append([self.nodes[f"{i}_0"](inputs)])
            for j in range(1, i + 1):  # the diagonal that this level makes possible
                rows[i - j].append(self._node(rows, i - j, j))
        outputs = rows[0][:0:-1]
        if self.training and len(self.heads) > 1:
            return [head(node) for head, node in zip(self.heads, outputs, strict=True)]
        logits: torch.Tensor = self.heads[0](outputs[0])
        return logits

    def _node(self, rows: list[list[torch.Tensor]], i: int, j: int) -> torch.Tensor:
        key = f"{i}_{j}"
        below = self.enlarge[key](rows[i + 1][j - 1])
        made: torch.Tensor = self.nodes[key](torch.cat([*rows[i][:j], below], dim=1))
        return made
