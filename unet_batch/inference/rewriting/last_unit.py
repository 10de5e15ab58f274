"""Last unit: from the last upsampling on, a U-Net's few classes at full resolution.

    phases -> activation -> convolution 3 wide (+ what went in, in a residual unit) -> logits

oneDNN is made for many channels: with two, this one convolution took a sixth of a forward pass.
Here it reads the phases where the upsampling left them and does the rest in one go
(`last_unit_kernel.py`). Milliseconds of one core (AVX-512 with bf16) for a tile of 96³:

=======  ============  ============
classes  layers, bf16  kernel, bf16
=======  ============  ============
1        9.1           1.5
2        9.6           4.2
3        17.2          8.2
4        17.9          13.5
=======  ============  ============
"""

from __future__ import annotations

import numpy as np
import torch
from monai.networks.blocks.convolutions import ResidualUnit

from unet_batch.inference.floats import as_numbers
from unet_batch.inference.rewriting.convolutions import slope_of
from unet_batch.inference.rewriting.last_unit_kernel import convolve_phases
from unet_batch.inference.rewriting.sequences import is_plain, sequences, steps
from unet_batch.inference.rewriting.upsampling import PhaseUpsampling


class LastUnit(torch.nn.Module):
    """A PhaseUpsampling in 3-D, an activation, and a convolution of as many channels.

    `slope` is what the activation multiplies negative values by. Where `is_residual`, what goes
    into the convolution is added to what comes out: one more in the middle of its weights.
    """

    def __init__(
        self,
        upsampling: PhaseUpsampling,
        slope: float,
        convolution: torch.nn.Conv3d,
        *,
        is_residual: bool,
    ) -> None:
        super().__init__()
        classes = upsampling.num_classes
        self.upsampling = upsampling.by_class()
        weight = convolution.weight.detach().float().clone()
        if is_residual:
            weight[range(classes), range(classes), 1, 1, 1] += 1
        bias = torch.zeros(classes) if convolution.bias is None else convolution.bias.detach()
        self._weight = weight.numpy()
        self._bias = tuple(np.float32(one) for one in bias.tolist())
        self._slope = np.float32(slope)

    def forward(self, coarse: torch.Tensor) -> torch.Tensor:
        """(n, c, z, y, x) to logits (n, classes, 2 z, 2 y, 2 x), channels last."""
        phases = self.upsampling.phases(coarse).detach()
        classes, dtype = len(self._bias), phases.dtype
        words = phases.view(torch.int32 if dtype == torch.bfloat16 else torch.int64)
        shape = [2 * (n - 1) for n in phases.shape[1:4]]
        logits = phases.new_empty(len(phases), *shape, classes)
        rows = as_numbers(logits.flatten(-2))
        convolve_phases(words.numpy(), self._weight, self._bias, self._slope, rows)
        return logits.movedim(-1, 1)


def replace_last_unit(network: torch.nn.Module) -> None:
    """Replace an upsampling, an activation and a convolution that run one after the other."""
    for places in sequences(network):
        for place, activation, unit in zip(places, places[1:], places[2:], strict=False):
            upsampling, slope = place.module, slope_of(activation.module)
            convolution, is_residual = _only_convolution(unit.module)
            if not is_plain(upsampling, PhaseUpsampling) or slope is None or convolution is None:
                continue
            if _fits(upsampling, convolution):
                place.put(LastUnit(upsampling, slope, convolution, is_residual=is_residual))
                activation.clear()
                unit.clear()


def _only_convolution(unit: torch.nn.Module) -> tuple[torch.nn.Conv3d | None, bool]:
    """The convolution that is all a unit does, and whether its input is added to its output."""
    if is_plain(unit, torch.nn.Conv3d):
        return unit, False
    if is_plain(unit, ResidualUnit) and is_plain(unit.residual, torch.nn.Identity):
        inside = [one.module for one in steps(unit.conv)]
        if len(inside) == 1 and is_plain(inside[0], torch.nn.Conv3d):
            return inside[0], True
    return None, False


def _fits(upsampling: PhaseUpsampling, layer: torch.nn.Conv3d) -> bool:
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return (
        shape == tuple((n, n, n) for n in (3, 1, 1, 1))
        and layer.in_channels == layer.out_channels == upsampling.num_classes
        and (layer.groups, layer.padding_mode) == (1, "zeros")
    )
