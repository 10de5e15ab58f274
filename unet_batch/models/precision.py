"""Whether a device computes bfloat16 natively, and which layout then is faster."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def has_native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware; elsewhere it is slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001 (no public question exists)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto` becomes bf16 where the device computes it natively, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if has_native_bf16(device) else "fp32"


def dtype_of(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    """The type that convolutions compute in."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def memory_layout(
    precision: Literal["fp32", "bf16"], device: torch.device, spatial_dims: int
) -> torch.memory_format:
    """Channels-last for bf16 on the CPU, else the default.

    Measured on 2 cores with AVX512-BF16: a training step of 4 patches of 40x56x40 takes a
    residual U-Net 16-128 75 ms channels-last, 87 ms otherwise and 127 ms in fp32.
    """
    if precision != "bf16" or device.type != "cpu":
        return torch.contiguous_format
    return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
