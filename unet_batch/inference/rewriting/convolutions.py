"""Convolutions: one and the activation after it are a single call of oneDNN.

What a convolution gives then passes through memory once instead of twice, and is rounded after
the activation. Its weights are converted to bfloat16 once, not in every pass.

A plain ReLU is left to torch: oneDNN's makes a zero of what is not a number, and nobody would see
that a volume went wrong.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from unet_batch.inference.rewriting.sequences import is_plain, sequences

TRANSPOSED = (torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
CONVOLUTIONS = (torch.nn.Conv2d, torch.nn.Conv3d, *TRANSPOSED)


class ActivatedConvolution(torch.nn.Module):
    """A convolution, transposed or not, then max(x, 0) + slope * min(x, 0), the slope not 0."""

    def __init__(self, layer: Any, slope: float, dtype: torch.dtype) -> None:
        super().__init__()
        bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.weight = torch.nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        where = [list(layer.padding), list(layer.stride), list(layer.dilation)]
        if isinstance(layer, TRANSPOSED):
            where.insert(1, list(layer.output_padding))
            self._convolve = torch.ops.mkldnn._convolution_transpose_pointwise  # noqa: SLF001 (what torch.compile calls)
        else:
            self._convolve = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
        self._where = [*where, layer.groups]
        self._activation = ["leaky_relu", [slope], ""]

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """(n, c, ...) to (n, channels, ...), as the convolution gave."""
        tensor = tensor.to(self.weight.dtype)
        result: torch.Tensor = self._convolve(
            tensor, self.weight, self.bias, *self._where, *self._activation
        )
        return result


def activate_convolutions(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Join each convolution with the activation that runs right after it."""
    for places in sequences(network):
        for place, follower in pairwise(places):
            layer, slope = place.module, slope_of(follower.module)
            if slope and _is_padded_with_zeros(layer):
                place.put(ActivatedConvolution(layer, slope, dtype))
                follower.clear()


def _is_padded_with_zeros(layer: torch.nn.Module) -> bool:
    """Whether `layer` is a convolution as oneDNN has it; others are rare."""
    if not is_plain(layer, *CONVOLUTIONS):
        return False
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def slope_of(activation: torch.nn.Module) -> float | None:
    """By what an activation multiplies negative values, if it is that simple."""
    if is_plain(activation, torch.nn.ReLU):
        return 0.0
    if is_plain(activation, torch.nn.LeakyReLU):
        return float(activation.negative_slope)
    if is_plain(activation, torch.nn.PReLU) and activation.weight.numel() == 1:
        return activation.weight.item()
    return None
