"""DynUNet: MONAI's, whose training output keeps the resolution of each supervised level.

Isensee et al.: nnU-Net, Nature Methods 2021, supplementary note 2. MONAI's own enlarges every
head to the tile's size and stacks them, which costs a tile of logits a head, and runs its
heads at inference too. Weights and logits of eval mode are the same: a Bundle names MONAI's.
"""

from __future__ import annotations

import torch
from monai.networks.nets import DynUNet as MonaiDynUNet

from unet_batch.models.architectures.blocks import Supervised


class DynUNet(MonaiDynUNet):
    """nnU-Net's shape; takes the arguments of MONAI's class of this name.

    With `deep_supervision` training mode returns `deep_supr_num` + 1 logits, those of the
    finest levels of the decoder, from fine to coarse.
    """

    def forward(self, image: torch.Tensor) -> Supervised:
        """Logits (n, classes, *tile); in training with deep supervision a list of them."""
        skips = [self.input_block(image)]
        for step in self.downsamples:
            skips.append(step(skips[-1]))
        features = self.bottleneck(skips[-1])
        decoded: list[torch.Tensor] = []
        is_supervised = bool(self.training and self.deep_supervision)
        for step in self.upsamples:
            features = step(features, skips.pop())
            if is_supervised:
                decoded.append(features)
        logits: torch.Tensor = self.output_block(features)
        if not is_supervised:
            return logits
        heads = zip(self.deep_supervision_heads, decoded[-2::-1], strict=False)
        return [logits, *(head(level) for head, level in heads)]
