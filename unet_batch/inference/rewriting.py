"""The same network with fewer passes over memory, for the CPU's forward pass.

Two rewritings, each exact up to rounding: a batch normalisation that follows a convolution is
folded into its weights, and a transposed convolution to a few classes becomes a convolution
whose channels are then laid out as voxels. Measured with a residual U-Net 16-256, two classes,
bf16 on two cores: together they take a quarter off a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise, product

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch.nn.utils.fusion import fuse_conv_bn_eval

_TRANSPOSED = (torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
_CONVOLUTIONS = (torch.nn.Conv2d, torch.nn.Conv3d, *_TRANSPOSED)
_NORMS = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)

# From here on oneDNN's own transposed convolution is as fast in bf16; fp32 would gain up to 16.
_MOST_CLASSES = 4

# The taps of a 3-wide kernel that an even and an odd output voxel see, as (offset of the input
# voxel, index in the kernel): out[2i] = w1 x[i]; out[2i+1] = w2 x[i] + w0 x[i+1].
_TAPS = (((0, 1),), ((0, 2), (1, 0)))


def rewritten(network: torch.nn.Module) -> torch.nn.Module:
    """A copy of `network` in eval mode that computes the same, faster on a CPU."""
    network = copy.deepcopy(network).eval()
    _fold_norms(network)
    _replace_upsampling(network)
    return network


class PhaseUpsampling(torch.nn.Module):
    """A transposed convolution 3 wide, stride 2, as one convolution 2 wide.

    Each input voxel gives the 2 x 2 x 2 output voxels above it, its phases, as channels
    (the sub-pixel convolution of Shi et al. 2016); laying them out is a copy of whole words.
    """

    def __init__(self, layer: torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d) -> None:
        super().__init__()
        self._dims = layer.weight.ndim - 2
        self._classes = layer.out_channels
        bias = torch.zeros(self._classes) if layer.bias is None else layer.bias.detach()
        self.weight = torch.nn.Parameter(_phase_weights(layer.weight.detach()), requires_grad=False)
        self.bias = torch.nn.Parameter(bias.repeat(2**self._dims), requires_grad=False)

    def forward(self, coarse: torch.Tensor) -> torch.Tensor:
        """(n, c, ...) to (n, classes, ...), twice as long along each axis."""
        convolve = F.conv3d if self._dims == 3 else F.conv2d
        phases = convolve(coarse, self.weight, self.bias, padding=1).movedim(1, -1)
        # Padding starts one voxel early; that voxel is of no use.
        phases = phases[(slice(None), *[slice(1, None)] * self._dims)]
        return self._laid_out(phases).movedim(-1, 1)

    def _laid_out(self, phases: torch.Tensor) -> torch.Tensor:
        """(n, ..., phases * classes) to (n, 2 * ..., classes)."""
        count, *shape, _ = phases.shape
        words = phases.contiguous() if phases.stride(-1) != 1 else phases
        words = words.view(_widest_word(2 * self._classes * phases.element_size()))
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


def _replace_upsampling(network: torch.nn.Module) -> None:
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _TRANSPOSED) and _is_doubling(layer):
                setattr(parent, name, PhaseUpsampling(layer))


def _is_doubling(layer: torch.nn.ConvTranspose2d | torch.nn.ConvTranspose3d) -> bool:
    """Whether PhaseUpsampling computes the same as `layer`, and faster."""
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation)
    wanted = tuple((n,) * (layer.weight.ndim - 2) for n in (3, 2, 1, 1, 1))
    return shape == wanted and layer.groups == 1 and layer.out_channels <= _MOST_CLASSES


def _fold_norms(network: torch.nn.Module) -> None:
    """Fold each batch normalisation that a Sequential runs right after a convolution."""
    sequences = [one for one in network.modules() if _is_sequence(one)]
    inner = {child for one in sequences for child in one.children()}
    for outermost in sequences:
        if outermost not in inner:
            for place, norm_place in pairwise(list(_leaves(outermost))):
                _fold(*place, *norm_place)


def _fold(parent: torch.nn.Module, name: str, norm_parent: torch.nn.Module, norm_name: str) -> None:
    layer, norm = getattr(parent, name), getattr(norm_parent, norm_name)
    if not isinstance(layer, _CONVOLUTIONS) or not isinstance(norm, _NORMS):
        return
    is_hooked = any(one._forward_hooks or one._forward_pre_hooks for one in (layer, norm))  # noqa: SLF001 (torch has no question for it)
    if norm.running_mean is None or layer.groups != 1 or is_hooked:
        return
    is_transposed = isinstance(layer, _TRANSPOSED)
    setattr(parent, name, fuse_conv_bn_eval(layer, norm, transpose=is_transposed))
    setattr(norm_parent, norm_name, torch.nn.Identity())


def _is_sequence(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, torch.nn.Sequential)
        and type(module).forward is torch.nn.Sequential.forward
    )


def _leaves(sequence: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str]]:
    """Parent and name of each module that a sequence runs, those inside it being opened."""
    for name, child in sequence.named_children():
        if _is_sequence(child):
            yield from _leaves(child)
        else:
            yield sequence, name
