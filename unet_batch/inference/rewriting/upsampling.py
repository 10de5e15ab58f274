"""Upsampling: a transposed convolution to a few classes becomes a convolution.

Its channels, the phases, are then laid out as voxels. Measured with a residual U-Net 16-256, two
classes, bf16 on two cores: with the norms folded a quarter off a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from unet_batch.inference.rewriting.convolutions import TRANSPOSED, convolve_onto
from unet_batch.inference.rewriting.sequences import is_plain

Parts = torch.Tensor | Sequence[torch.Tensor]
"""A tensor (n, c, ...), or several whose channels follow each other."""

# From here on oneDNN's own transposed convolution is as fast in bf16; fp32 would gain up to 16.
_MOST_CLASSES = 4

# The taps of a 3-wide kernel that an even and an odd output voxel see, as (offset of the input
# voxel, index in the kernel): out[2i] = w1 x[i]; out[2i+1] = w2 x[i] + w0 x[i+1].
_TAPS = (((0, 1),), ((0, 2), (1, 0)))


class PhaseUpsampling(torch.nn.Module):
    """A transposed convolution 3 wide, stride 2, as one convolution 2 wide.

    Each input voxel gives the 2 x 2 x 2 output voxels above it, its phases, as channels
    (the sub-pixel convolution of Shi et al. 2016); laying them out is a copy of whole words.
    """

    def __init__(
        self,
        layer: torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._dims = layer.weight.ndim - 2
        self._classes = layer.out_channels
        weight = _phase_weights(layer.weight.detach()).to(dtype)
        bias = torch.zeros(self._classes) if layer.bias is None else layer.bias.detach()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        bias = bias.repeat(2**self._dims).to(dtype)
        self.bias = torch.nn.Parameter(bias, requires_grad=False)

    @property
    def num_classes(self) -> int:
        """Channels of the result."""
        return self._classes

    def by_class(self) -> Self:
        """A copy whose `phases` are by z, y, class and x, in place of z, y, x and class."""
        other = copy.deepcopy(self)
        order = torch.arange(len(self.bias)).view(-1, 2, self._classes).mT.flatten()
        other.weight = torch.nn.Parameter(self.weight[order], requires_grad=False)
        other.bias = torch.nn.Parameter(self.bias[order], requires_grad=False)
        return other

    def forward(self, coarse: Parts) -> torch.Tensor:
        """(n, c, ...) to (n, classes, ...), twice as long along each axis."""
        # Padding starts one voxel early; that voxel is of no use.
        phases = self.phases(coarse)[(slice(None), *[slice(1, None)] * self._dims)]
        return self._laid_out(phases).movedim(-1, 1)

    def phases(self, coarse: Parts) -> torch.Tensor:
        """(n, c, ...) to (n, 1 + ..., phases * classes), where phases are by z, y, x.

        The first voxel along each axis is of no use. Channels may come in parts.
        """
        first, *others = [coarse] if isinstance(coarse, torch.Tensor) else coarse
        start = first.shape[1]
        convolve = F.conv3d if self._dims == 3 else F.conv2d
        phases = convolve(first, self.weight[:, :start], self.bias, padding=1)
        for part in others:
            self._add(phases, part, self.weight[:, start : start + part.shape[1]])
            start += part.shape[1]
        phases = phases.movedim(1, -1)
        return phases if phases.stride(-1) == 1 else phases.contiguous()

    def _add(self, phases: torch.Tensor, part: torch.Tensor, weight: torch.Tensor) -> None:
        """Add to phases what another part of the channels gives."""
        ones = [1] * self._dims
        convolve_onto(phases, part.to(phases.dtype), weight, None, ones, ones, ones, 1)

    def _laid_out(self, phases: torch.Tensor) -> torch.Tensor:
        """(n, ..., phases * classes) to (n, 2 * ..., classes)."""
        count, *shape, _ = phases.shape
        words = phases.view(_widest_word(2 * self._classes * phases.element_size()))
        words = words.view(count, *shape, *[2] * (self._dims - 1), -1)
        # (n, d, h, w, a, b, k) to (n, d, a, h, b, w, k): the phase of x stays inside k.
        axes = [0]
        for axis in range(self._dims - 1):
            axes += [1 + axis, 1 + self._dims + axis]
        words = words.permute(*axes, self._dims, 2 * self._dims).contiguous()
        return words.view(phases.dtype).view(count, *[2 * n for n in shape], self._classes)


def _phase_weights(weight: torch.Tensor) -> torch.Tensor:
    """(c, classes, 3, ...) of a transposed convolution to (phases * classes, c, 2, ...)."""
    inputs, classes, *kernel = weight.shape
    dims = len(kernel)
    phases = weight.new_zeros(*[2] * dims, classes, inputs, *[2] * dims)
    for phase in product((0, 1), repeat=dims):
        for taps in product(*(_TAPS[one] for one in phase)):
            offsets, indices = zip(*taps, strict=True)
            phases[(*phase, ..., *offsets)] = weight[(..., *indices)].T
    return phases.reshape(2**dims * classes, inputs, *[2] * dims)


def _widest_word(num_bytes: int) -> torch.dtype:
    """The longest type of which a run of `num_bytes` holds a whole number."""
    if num_bytes % 8 == 0:
        return torch.int64
    return torch.int32 if num_bytes % 4 == 0 else torch.int16


def replace_upsampling(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace each transposed convolution for which a PhaseUpsampling is faster."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, TRANSPOSED) and _is_doubling(layer):
                setattr(parent, name, PhaseUpsampling(layer, dtype))


def _is_doubling(layer: torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d) -> bool:
    """Whether PhaseUpsampling computes the same as `layer`, and faster."""
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation)
    wanted = tuple((n,) * (layer.weight.ndim - 2) for n in (3, 2, 1, 1, 1))
    return (
        shape == wanted
        and is_plain(layer, *TRANSPOSED)
        and layer.groups == 1
        and layer.out_channels <= _MOST_CLASSES
    )
