"""Winograd convolutions: those 3 wide of many channels, in bfloat16, by a kernel of our own.

oneDNN convolves directly, and does so at the processor's peak: to be faster, one has to multiply
less. `winograd_kernel.py` does with 16 products what takes 36 directly, and adds more. Its results
differ from the exact ones by about twice what the direct ones in bfloat16 do (0.4 and 0.2 % of
their spread), for the values are rounded once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import binding

from unet_batch.inference.floats import as_numbers
from unet_batch.inference.rewriting.matrix_kernel import COLUMNS
from unet_batch.inference.rewriting.sequences import is_plain
from unet_batch.inference.rewriting.winograd_kernel import POINTS, convolve
from unet_batch.inference.vectors import LANES

Convolution = torch.nn.Conv2d | torch.nn.Conv3d

# G of Lavin and Gray 2016, F(2, 3): what the weights of an axis become, with the B and A of the
# kernel.
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))

# Of a plane: below, oneDNN is as fast, and what there is to gain is little (measured with 32 to 320
# channels: 10 x 10 1.35 times as fast, 6 x 6 1.4, but 0.7 where two threads share it; 5 x 5 0.95).
_FEWEST_PIXELS = 100

_FEATURES = ("avx512f", "avx512bf16")


class WinogradConvolution(torch.nn.Module):
    """A convolution 3 wide along y and x, and 3 or 1 along z, that keeps the size.

    Then max(x, 0) + slope * min(x, 0), if there is a `slope`. Computes in bfloat16, and adds up in
    float32.
    """

    def __init__(self, layer: Convolution, slope: float | None = None) -> None:
        super().__init__()
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        weight = moved_weight(layer.weight.detach())
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self._num_inputs, self._dims = layer.in_channels, len(layer.kernel_size)
        self._bias = bias.float().numpy().copy()
        self._slope = np.float32(1.0 if slope is None else slope)

    def forward(self, tensor: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """(n, c, ...) to (n, channels, ...), channels last; `tensor` may come in two parts of c.

        Each part has a multiple of 16 channels. Raises ValueError where what comes does not fit.
        """
        parts = [tensor] if isinstance(tensor, torch.Tensor) else tensor
        self._check(parts)
        first, second = (_rows(parts[0]), _rows(parts[-1]))
        if len(parts) == 1:  # nothing: a tuple of one array would be compiled apart
            second = first.new_empty(*first.shape[:-1], 0)
        out = first.new_empty(*first.shape[:-1], len(self._bias))
        values = (_with_planes(first), _with_planes(second))
        weight = self.weight.view(torch.uint16).numpy()
        convolve(values, weight, self._bias, self._slope, _with_planes(out))
        return out.movedim(-1, 1)

    def _check(self, parts: Sequence[torch.Tensor]) -> None:
        """The kernel looks at no shape but the first's: it would read what lies behind."""
        shapes = [tuple(part.shape) for part in parts]
        fits = (
            len(parts) in {1, 2}
            and all(len(shape) == 2 + self._dims for shape in shapes)
            and len({(shape[0], *shape[2:]) for shape in shapes}) == 1
            and all(shape[1] % LANES == 0 for shape in shapes)
            and sum(shape[1] for shape in shapes) == self._num_inputs
        )
        if not fits:
            raise ValueError(
                f"a convolution of {self._num_inputs} channels in {self._dims} dimensions got"
                f" {' and '.join(map(str, shapes))}, channels second; a tile that the network's"
                " strides do not divide makes levels of different sizes: give another roi"
            )


def moved_weight(weight: torch.Tensor) -> torch.Tensor:
    """Weights (channels, c, [z,] 3, 3) as the kernel takes them, bfloat16.

    (channels / 32, 16, taps of z, c / 2, 32, 2): for each pair of c those of 32 channels.
    """
    weight = weight.unsqueeze(2) if weight.ndim == 4 else weight
    outputs, inputs, taps = weight.shape[:3]
    g = torch.tensor(_G, dtype=torch.float64)
    shape = (POINTS, taps, inputs // 2, COLUMNS, 2)
    moved = torch.empty(outputs // COLUMNS, *shape, dtype=torch.bfloat16)
    # A block at a time: all of them in double precision take eight times what they end as.
    for block, part in zip(moved, torch.split(weight, COLUMNS), strict=True):
        exact = torch.einsum("ai,bj,kczij->abzck", g, g, part.double())
        exact = exact.reshape(POINTS, taps, inputs // 2, 2, COLUMNS)
        block.copy_(exact.movedim(-1, -2))
    return moved


def is_winograd_faster(tensor: torch.Tensor) -> bool:
    """Whether the patches of tiles (n, c, [z,] y, x) are many enough for each weight."""
    return tensor.shape[-2] * tensor.shape[-1] >= _FEWEST_PIXELS


def is_for_winograd(layer: torch.nn.Module, dtype: torch.dtype) -> bool:
    """Whether a WinogradConvolution computes what `layer` does, and this processor gains by it."""
    if dtype != torch.bfloat16 or not is_plain(layer, torch.nn.Conv2d, torch.nn.Conv3d):
        return False
    kernel, ones = layer.kernel_size, (1,) * len(layer.kernel_size)
    return (
        kernel in {(3, 3), (3, 3, 3), (1, 3, 3)}
        and layer.padding == tuple(n // 2 for n in kernel)
        and layer.stride == layer.dilation == ones
        and (layer.groups, layer.padding_mode) == (1, "zeros")
        and layer.in_channels % COLUMNS == layer.out_channels % COLUMNS == 0
        and has_bfloat16_vectors()
        and not has_bfloat16_tiles()
    )


@cache
def has_bfloat16_vectors() -> bool:
    """Whether the processor has what the kernel is made for."""
    features = _features()
    return all(features.get(name) for name in _FEATURES)


@cache
def has_bfloat16_tiles() -> bool:
    """Whether it multiplies matrices (AMX): oneDNN's direct convolution is faster by it."""
    return bool(_features().get("amx-bf16"))


@cache
def _features() -> dict[str, bool]:
    """The processor's; none where numba was told to compile for another (NUMBA_CPU_NAME)."""
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES:  # type: ignore[attr-defined]
        return {}
    return dict(binding.get_host_cpu_features())


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """(n, c, ...) to bfloat16 (n, ..., c), as it lies in memory where it is channels last."""
    return tensor.to(torch.bfloat16).movedim(1, -1).contiguous()


def _with_planes(rows: torch.Tensor) -> Any:
    """Rows (n, [z,] y, x, c) as the bits of (n, z, y, x, c)."""
    return as_numbers(rows if rows.ndim == 5 else rows.unsqueeze(1))
