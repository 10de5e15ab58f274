"""The same network with fewer passes over memory, for the CPU's forward pass.

Each rewriting is exact up to rounding, in bfloat16 to that of this type. In the order in which they
are made:

==============  ====================================================================
norms           a batch normalisation is folded into the convolution before it
upsampling      a transposed convolution to a few classes becomes a convolution
                whose channels are voxels' phases
last_unit       what follows that, an activation and a convolution of these classes
                at full resolution, is one kernel of our own
joints          where branches meet, less is copied
instance_norms  an instance norm is done in place, with the activation after it
convolutions    a convolution and the activation after it are one call of oneDNN, its weights
                laid out beforehand
winograd        or, in bf16 and with many channels, one kernel of our own that multiplies less
==============  ====================================================================

Measured on AVX-512 with bf16, milliseconds of a core for a tile, without the rewritings named
and with them (the residual U-Net in a lane on each of two cores):

================================  ================================  ======  =====
network, tile, classes            rewritings                        before  after
================================  ================================  ======  =====
residual U-Net, 96³, 2, bf16      last unit, joints, convolutions     67.6   59.3
residual U-Net, 40³, 3, bf16      the same                             6.1    5.7
residual U-Net, 96³, 2, fp32      packed weights, added residuals      134    118
DynUNet 32-320, 64³, 2, bf16      instance norms, convolutions         773    519
DynUNet 32-320, 64³, 2, fp32      the same                            1228   1047
DynUNet 32-320, 96³, 2, bf16      winograd                            1813   1175
BasicUNet, 96³, 2, bf16           winograd                            1210    819
U-Net of the paper, 64³, 2, bf16  winograd                            2038   1244
residual U-Net, 96³, 2, bf16      winograd                            59.4   55.9
================================  ================================  ======  =====
"""

from __future__ import annotations

import copy

import torch

import unet_batch.models.lean_monai  # noqa: F401 (before anything imports MONAI)
from unet_batch.inference.rewriting.convolutions import pack_convolutions
from unet_batch.inference.rewriting.instance_norms import (
    has_instance_norms,
    replace_instance_norms,
)
from unet_batch.inference.rewriting.joints import (
    add_by_convolution,
    add_in_place,
    open_skips,
    open_up_blocks,
)
from unet_batch.inference.rewriting.last_unit import replace_last_unit
from unet_batch.inference.rewriting.norms import fold_norms
from unet_batch.inference.rewriting.upsampling import replace_upsampling


def rewritten(network: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A copy of `network` in eval mode that computes the same, faster on a CPU.

    `dtype` is what its convolutions will compute in: bfloat16 under autocast.
    """
    network, is_fast = copy.deepcopy(network).eval(), has_onednn(dtype)
    fold_norms(network)
    replace_upsampling(network, dtype)
    if is_fast:
        open_skips(network)
    replace_last_unit(network)
    add_in_place(network)
    if is_fast:
        replace_instance_norms(network)
        # Packed, convolutions give channels-last in float32 too, which torch's own norms copy.
        if dtype != torch.float32 or not has_instance_norms(network):
            add_by_convolution(network, dtype)
            pack_convolutions(network, dtype)
            open_up_blocks(network)
    return network


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN takes tensors of `dtype` here; torch's own layers do without, if need be."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 (the only question there is)
