"""Convolutions: each is one call of oneDNN with the activation after it, its weights packed.

Those for which Winograd's way is faster go that way (`winograd.py`).

What a convolution gives then passes through memory once instead of twice, and is rounded after
the activation. Its weights are converted to bfloat16 and laid out once, not in every pass; with
packed ones torch leaves the result channels-last, which oneDNN convolves faster, in float32 too.

A plain ReLU is left to torch: oneDNN's makes a zero of what is not a number, and nobody would see
that a volume went wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch

from unet_batch.inference.rewriting.sequences import Place, is_plain, sequences
from unet_batch.inference.rewriting.winograd import (
    WinogradConvolution,
    is_for_winograd,
    is_winograd_faster,
)

TRANSPOSED = (torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
CONVOLUTIONS = (torch.nn.Conv2d, torch.nn.Conv3d, *TRANSPOSED)

_NONE: list[Any] = ["none", [], ""]


class PackedConvolution(torch.nn.Module):
    """A convolution, transposed or not, then max(x, 0) + slope * min(x, 0), if there is a slope.

    The first pass lays the weights out as oneDNN wants them for tiles like its own; others it
    takes as well.
    """

    def __init__(self, layer: Any, dtype: torch.dtype, slope: float | None = None) -> None:
        super().__init__()
        bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.weight = torch.nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        self._where = [list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups]
        self._activation = _NONE if slope is None else ["leaky_relu", [slope], ""]
        ops = torch.ops.mkldnn  # what torch.compile calls
        if isinstance(layer, TRANSPOSED):
            self._where.insert(1, list(layer.output_padding))
            self._convolve = ops._convolution_transpose_pointwise  # noqa: SLF001
            self._pack = ops._reorder_convolution_transpose_weight  # noqa: SLF001
        else:
            self._convolve = ops._convolution_pointwise  # noqa: SLF001
            self._pack = ops._reorder_convolution_weight  # noqa: SLF001

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """(n, c, ...) to (n, channels, ...), as the convolution gave."""
        tensor, weight = self._ready(tensor)
        result: torch.Tensor = self._convolve(
            tensor, weight, self.bias, *self._where, *self._activation
        )
        return result

    def add_to(self, result: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """`result` (n, channels, ...), to which what the convolution gives is added in place.

        Not of a transposed one, nor of one with an activation.
        """
        tensor, weight = self._ready(tensor)
        return convolve_onto(result, tensor, weight, self.bias, *self._where)

    def _ready(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What goes in, in the type of the weights; and these, packed from the first pass on."""
        tensor, weight = tensor.to(self.weight.dtype), self.weight
        if not weight.is_mkldnn:
            packed = self._pack(weight, *self._where, list(tensor.shape))
            # Lanes may both do so: one replaces what the other has laid out alike.
            self.weight = weight = torch.nn.Parameter(packed, requires_grad=False)
        return tensor, weight


class ChosenConvolution(torch.nn.Module):
    """A convolution and its activation in Winograd's way, or oneDNN's where tiles are small.

    The first pass chooses for tiles like its own; the result takes others as well.
    """

    def __init__(self, layer: torch.nn.Module, dtype: torch.dtype, slope: float | None) -> None:
        super().__init__()
        self.convolution = layer
        self._dtype, self._slope = dtype, slope

    def forward(self, tensor: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """(n, c, ...) to (n, channels, ...); `tensor` may come in parts of c."""
        parts = [tensor] if isinstance(tensor, torch.Tensor) else tensor
        convolution = self.convolution
        if not isinstance(convolution, WinogradConvolution | PackedConvolution):
            # Lanes may both do so: one replaces what the other has chosen alike.
            convolution = self.convolution = self._choose(convolution, parts[0])
        if isinstance(convolution, PackedConvolution):
            tensor = parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim=1)
            return convolution.forward(tensor)
        return convolution.forward(parts)

    def _choose(self, layer: Any, tensor: torch.Tensor) -> WinogradConvolution | PackedConvolution:
        if is_winograd_faster(tensor):
            return WinogradConvolution(layer, self._slope)
        return PackedConvolution(layer, self._dtype, self._slope)


def convolve_onto(
    result: torch.Tensor,
    tensor: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *where: Any,
) -> torch.Tensor:
    """`result`, to which a convolution of `tensor` is added in place.

    `where` is its padding, stride, dilation and groups.
    """
    add = torch.ops.mkldnn._convolution_pointwise_.binary
    added: torch.Tensor = add(result, tensor, weight, bias, *where, "add", None, None, [], None)
    return added


def pack_convolutions(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Pack the convolutions that run in sequences, each with the activation right after it."""
    for places in sequences(network):
        for place, follower in zip_longest(places, places[1:]):
            layer = place.module
            if is_for_winograd(layer, dtype):
                place.put(ChosenConvolution(layer, dtype, take_slope(follower)))
            elif can_be_packed(layer):
                place.put(PackedConvolution(layer, dtype, take_slope(follower)))


def take_slope(follower: Place | None) -> float | None:
    """The slope of the activation that follows, which is taken away; None where it stays."""
    if follower is None or not (slope := slope_of(follower.module)):
        return None
    follower.clear()
    return slope


def can_be_packed(layer: torch.nn.Module) -> bool:
    """Whether `layer` is a convolution as oneDNN has it, padded with zeros; others are rare."""
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
