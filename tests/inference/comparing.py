"""What tests of rewritten networks ask of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def count(network: torch.nn.Module, *kinds: type[torch.nn.Module]) -> int:
    """How many modules of these kinds `network` has."""
    return sum(isinstance(one, kinds) for one in network.modules())


@dataclass(frozen=True)
class Strayed:
    """Mean distance from the float32 logits: of the network under autocast, and of the faster."""

    plain: float
    faster: float


def strayed(network: torch.nn.Module, faster: torch.nn.Module, tiles: torch.Tensor) -> Strayed:
    """How far bfloat16 leads both from what `network` gives in float32."""
    with torch.inference_mode():
        exact = network(tiles)
        with torch.autocast("cpu", torch.bfloat16):
            plain, fast = network(tiles), faster(tiles.bfloat16())
    assert fast.dtype == torch.bfloat16
    return Strayed(*((one - exact).abs().mean().item() for one in (plain, fast)))
