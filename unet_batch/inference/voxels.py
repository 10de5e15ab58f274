"""Voxels: raw pieces of a scan to one normalised array on the device, and tiles out of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.inference.skipping import Piece
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
    box: Box, pieces: Sequence[Piece], normalizer: Normalizer, device: torch.device
) -> torch.Tensor:
    """Normalised voxels float32 (c, *box.shape) from raw pieces, each normalised on the device."""
    whole = Box((0, *box.start), (len(normalizer.channels), *box.stop))
    if [part for part, _ in pieces] == [whole]:
        return normalizer.apply(_as_tensor(pieces[0][1], device))
    voxels = torch.empty(whole.shape, device=device)
    for part, raw in pieces:
        channels = normalizer.channels[part.start[0] : part.stop[0]]
        values = replace(normalizer, channels=channels).apply(_as_tensor(raw, device))
        voxels[part.relative_to(whole).slices] = values
    return voxels


def _as_tensor(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """`array` without a copy where it lies on the device; never written to."""
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, which torch cannot express.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)
