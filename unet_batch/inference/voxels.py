"""Voxels: raw pieces of a scan to one normalised array on the device, and tiles out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from unet_batch.inference.skipping import Piece
from unet_batch.inference.transfer import Transfer
from unet_batch.models.intensity import Normalizer
from unet_batch.tiling.box import Box


def copy_tile(voxels_czyx: torch.Tensor, box: Box, tile: Box, room_czyx: torch.Tensor) -> None:
    """Copy what `voxels_czyx`, the voxels of `box`, have of `tile`; zero where they end."""
    inside = tile & box
    if inside != tile:
        room_czyx.zero_()
    source = voxels_czyx[:, *inside.relative_to(box).slices]
    room_czyx[:, *inside.relative_to(tile).slices] = source


def assemble(
    box: Box, pieces: Sequence[Piece], normalizer: Normalizer, transfer: Transfer
) -> torch.Tensor:
    """Normalised voxels float32 (c, *box.shape) from raw pieces, each normalised in its place."""
    whole = Box((0, *box.start), (len(normalizer.channels), *box.stop))
    if [part for part, _ in pieces] == [whole]:
        return normalizer.apply(transfer.upload(pieces[0][1]))
    voxels = torch.empty(whole.shape, device=transfer.device)
    for part, raw in pieces:
        channels = normalizer.channels[part.start[0] : part.stop[0]]
        room = voxels[part.relative_to(whole).slices]
        replace(normalizer, channels=channels).apply(transfer.upload(raw), out=room)
    return voxels
