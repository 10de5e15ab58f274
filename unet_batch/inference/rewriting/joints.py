"""Joints: where branches of a network meet, with less copying.

What a skip connection concatenates is not, where what reads it takes its channels in parts: an
upsampling or a Winograd convolution.
What a residual unit adds is added in place, by the convolution itself where there is one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeGuard

import torch
from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetUpBlock
from monai.networks.layers.simplelayers import SkipConnection

from unet_batch.inference.rewriting.convolutions import (
    ChosenConvolution,
    PackedConvolution,
    can_be_packed,
)
from unet_batch.inference.rewriting.sequences import is_plain, sequences, steps
from unet_batch.inference.rewriting.upsampling import PhaseUpsampling


class OpenSkip(torch.nn.Module):
    """A skip connection that gives what it would concatenate, in parts."""

    def __init__(self, skip: SkipConnection) -> None:
        super().__init__()
        self.submodule = skip.submodule

    def forward(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, c, ...) to the same, and what is below made of it."""
        return tensor, self.submodule(tensor)


class ResidualSum(torch.nn.Module):
    """A residual unit: its convolutions' result, to which what went in is added in place."""

    def __init__(self, unit: ResidualUnit) -> None:
        super().__init__()
        self.conv = unit.conv
        self.residual: torch.nn.Module = unit.residual

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """(n, c, ...) to (n, channels, ...)."""
        result: torch.Tensor = self.conv(tensor)
        if isinstance(self.residual, PackedConvolution):
            return self.residual.add_to(result, tensor)
        return result.add_(self.residual(tensor))


class OpenUpBlock(torch.nn.Module):
    """A level of DynUNet's way up, whose first convolution takes its channels in parts."""

    def __init__(self, block: UnetUpBlock) -> None:
        super().__init__()
        self.transp_conv, self.conv_block = block.transp_conv, block.conv_block

    def forward(self, coarse: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(n, c, ...) and the skip connection's (n, channels, ...), to the latter's shape."""
        result: torch.Tensor = self.conv_block((self.transp_conv(coarse), skip))
        return result


def open_skips(network: torch.nn.Module) -> None:
    """Leave open each skip connection that a PhaseUpsampling follows."""
    for places in sequences(network):
        for place, follower in pairwise(places):
            skip, is_read_in_parts = place.module, is_plain(follower.module, PhaseUpsampling)
            if is_plain(skip, SkipConnection) and is_read_in_parts and _concatenates(skip):
                place.put(OpenSkip(skip))


def _concatenates(skip: SkipConnection) -> bool:
    """Whether channels follow each other, and not another axis."""
    return bool(skip.mode == "cat" and skip.dim == 1)


def add_in_place(network: torch.nn.Module) -> None:
    """Let residual units add in place."""
    for parent in list(network.modules()):
        for name, unit in list(parent.named_children()):
            if is_plain(unit, ResidualUnit):
                setattr(parent, name, ResidualSum(unit))


def add_by_convolution(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Let the convolutions beside those of residual units add what they give themselves."""
    for unit in network.modules():
        if isinstance(unit, ResidualSum) and can_be_packed(unit.residual):
            unit.residual = PackedConvolution(unit.residual, dtype)


def open_up_blocks(network: torch.nn.Module) -> None:
    """Leave open what DynUNet's levels concatenate for a Winograd convolution."""
    opened: dict[torch.nn.Module, OpenUpBlock] = {}  # MONAI's has each in two places
    for parent in list(network.modules()):
        for name, block in list(parent.named_children()):
            if _is_read_in_parts(block):
                setattr(parent, name, opened.setdefault(block, OpenUpBlock(block)))


def _is_read_in_parts(block: torch.nn.Module) -> TypeGuard[UnetUpBlock]:
    """Whether a block concatenates for a convolution that need not have it so."""
    if not is_plain(block, UnetUpBlock) or not is_plain(block.conv_block, UnetBasicBlock):
        return False
    readers = [one.module for one in steps(block.conv_block.conv1)]
    return len(readers) == 1 and is_plain(readers[0], ChosenConvolution)
