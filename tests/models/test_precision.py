from __future__ import annotations

import torch

from unet_batch.models.precision import has_native_bf16, memory_layout, resolve_precision

CPU = torch.device("cpu")


def test_auto_follows_the_device_and_a_wish_is_kept() -> None:
    assert resolve_precision("auto", CPU) == ("bf16" if has_native_bf16(CPU) else "fp32")
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"


def test_channels_last_is_for_bf16_on_the_cpu() -> None:
    assert memory_layout("bf16", CPU, 3) == torch.channels_last_3d
    assert memory_layout("bf16", CPU, 2) == torch.channels_last
    assert memory_layout("fp32", CPU, 3) == torch.contiguous_format
    assert memory_layout("bf16", torch.device("cuda"), 3) == torch.contiguous_format
