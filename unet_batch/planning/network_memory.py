"""What a training step of a U-Net takes in memory: counted, not run.

A tensor is counted while autograd keeps it for the backward pass. For a level of `f` channels
and `v` voxels that is, of each convolution with its norm and activation in place, what the
convolution and what the activation made (2 f v); of the encoder's two convolutions 4 f v; of
the decoder's 4 f v and the concatenation's 2 f v. Logits, their softmax, the truth and their
gradients are float32. `models.footprint.step_bytes` counts the same operation by operation; a
test holds the two against each other. A real step takes more: copies in other layouts and
precisions inside operations, and what the allocator does not give back, `_SCRATCH` here.

Growth of the resident set over two steps of AdamW, against this estimate (two cores, a
derived DynUNet 32-256 on tiles of 40x56x40, three classes):

========== ========== ==========
batch      measured   estimate
========== ========== ==========
4, bf16       826 MiB    828 MiB
10, bf16     1687 MiB   1702 MiB
4, fp32      1212 MiB   1385 MiB
========== ========== ==========
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

_MAPS_ENCODER = 4  # of f v, kept for the backward pass
_MAPS_DECODER = 6
_MAPS_BACKWARD = 6  # gradients held at once at the finest level, the concatenation's first
_LOGIT_COPIES = 6  # logits, softmax, one-hot truth, products, and two gradients, float32
_SCRATCH = 1.3  # of what is kept, as measured
_FIXED = 2**27  # compiled kernels and their scratch, as measured
_WEIGHT_BYTES = 20  # value, gradient and average in float32, and two moments of Adam


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What a `dynunet` is: `filters` and `kernels` of the levels, `strides` between them."""

    in_channels: int
    num_classes: int
    filters: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    num_supervised: int

    @property
    def num_levels(self) -> int:
        """Levels, the deepest included."""
        return len(self.filters)

    def level_voxels(self, tile: Sequence[int]) -> list[int]:
        """Voxels of each level for a tile, from fine to coarse."""
        sizes, voxels = list(tile), [prod(tile)]
        for step in self.strides:
            sizes = [-(-size // stride) for size, stride in zip(sizes, step, strict=True)]
            voxels.append(prod(sizes))
        return voxels

    @property
    def num_weights(self) -> int:
        """Weights of all convolutions; norms and biases are too few to count."""
        before = (self.in_channels, *self.filters[:-1])
        total = 0
        for taken, made, kernel in zip(before, self.filters, self.kernels, strict=True):
            total += (taken + made) * made * prod(kernel)
        climb = zip(
            self.filters[:-1], self.filters[1:], self.strides, self.kernels[1:], strict=True
        )
        for fine, coarse, step, kernel in climb:
            total += coarse * fine * prod(step) + 3 * fine * fine * prod(kernel)
        return total


def training_bytes(
    shape: NetworkShape, tile: Sequence[int], *, batch_size: int, itemsize: int
) -> int:
    """Bytes of one training step: weights, optimiser, and what the backward pass needs.

    `itemsize` is that of activations: 2 in bfloat16, 4 in float32.
    """
    voxels = shape.level_voxels(tile)
    last = shape.num_levels - 1
    maps = [_MAPS_ENCODER + (_MAPS_DECODER if level < last else 0) for level in range(last + 1)]
    kept = sum(n * f * v for n, f, v in zip(maps, shape.filters, voxels, strict=True))
    kept += (_MAPS_BACKWARD * shape.filters[0] + shape.in_channels) * voxels[0]
    logits = shape.num_classes * sum(voxels[: 1 + shape.num_supervised])
    per_tile = itemsize * kept + 4 * _LOGIT_COPIES * logits
    weights = (_WEIGHT_BYTES + itemsize) * shape.num_weights
    return int(_SCRATCH * batch_size * per_tile) + weights + _FIXED
