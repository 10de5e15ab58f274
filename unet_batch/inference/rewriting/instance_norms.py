"""Instance norms: one that follows a convolution is done in place, with the activation after it.

torch knows instance norms of contiguous tensors only: of what oneDNN gives, channels-last, it
makes a copy for each, and oneDNN makes one back. That was a third of the pass of nnU-Net's shape.
"""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock

from unet_batch.inference.floats import as_numbers
from unet_batch.inference.rewriting.convolutions import CONVOLUTIONS, slope_of, take_slope
from unet_batch.inference.rewriting.instance_norm_kernel import normalise
from unet_batch.inference.rewriting.sequences import is_plain, sequences

InstanceNorm = torch.nn.InstanceNorm2d | torch.nn.InstanceNorm3d
INSTANCE_NORMS = (torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d)


class InPlaceInstanceNorm(torch.nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, over each channel of each tile.

    `slope` is what negative results are multiplied by: 1 where no activation follows.
    """

    def __init__(self, norm: InstanceNorm, slope: float = 1.0) -> None:
        super().__init__()
        ones, zeros = torch.ones(norm.num_features), torch.zeros(norm.num_features)
        self._weight = (ones if norm.weight is None else norm.weight.detach().float()).numpy()
        self._bias = (zeros if norm.bias is None else norm.bias.detach().float()).numpy()
        self._eps, self._slope = norm.eps, np.float32(slope)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` (n, c, ...) itself, normalised; a copy of it where it is not channels-last."""
        rows = tensor.movedim(1, -1).contiguous()
        normalise(as_numbers(rows.flatten(1, -2)), self._weight, self._bias, self._eps, self._slope)
        return rows.movedim(-1, 1)


def replace_instance_norms(network: torch.nn.Module) -> None:
    """Replace the instance norms whose input is a convolution's result and nobody else's."""
    for places in sequences(network):
        for layer, place, follower in zip(places, places[1:], [*places[2:], None], strict=False):
            norm = place.module
            if is_plain(layer.module, *CONVOLUTIONS) and _is_of_the_tile(norm):
                place.put(InPlaceInstanceNorm(norm, take_slope(follower) or 1.0))
    for block in network.modules():
        if is_plain(block, UnetBasicBlock) or is_plain(block, UnetResBlock):
            _replace_in_block(block)


def _replace_in_block(block: UnetBasicBlock | UnetResBlock) -> None:
    """In MONAI's blocks every norm follows a convolution, and in a basic one is then activated."""
    slope = 1.0
    norms = [name for name in ("norm1", "norm2", "norm3") if hasattr(block, name)]
    if not all(_is_of_the_tile(getattr(block, name)) for name in norms):
        return
    if is_plain(block, UnetBasicBlock) and (found := slope_of(block.lrelu)):
        slope, block.lrelu = found, torch.nn.Identity()
    for name in norms:
        setattr(block, name, InPlaceInstanceNorm(getattr(block, name), slope))


def has_instance_norms(network: torch.nn.Module) -> bool:
    """Whether `network` still has one that is torch's own."""
    return any(isinstance(one, INSTANCE_NORMS) for one in network.modules())


def _is_of_the_tile(norm: object) -> TypeGuard[InstanceNorm]:
    """Whether `norm` is an instance norm that takes mean and variance from the tile at hand."""
    return is_plain(norm, *INSTANCE_NORMS) and norm.running_mean is None
