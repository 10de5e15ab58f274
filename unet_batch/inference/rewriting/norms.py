"""Norms: a batch normalisation that follows a convolution is folded into its weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unet_batch.inference.rewriting.convolutions import CONVOLUTIONS, TRANSPOSED
from unet_batch.inference.rewriting.sequences import Place, is_plain, sequences

_NORMS = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


def fold_norms(network: torch.nn.Module) -> None:
    """Fold each batch normalisation that runs right after a convolution."""
    for places in sequences(network):
        for place, follower in pairwise(places):
            _fold(place, follower)


def _fold(place: Place, follower: Place) -> None:
    layer, norm = place.module, follower.module
    if not (is_plain(layer, *CONVOLUTIONS) and is_plain(norm, *_NORMS)):
        return
    if norm.running_mean is None or layer.groups != 1:
        return
    is_transposed = isinstance(layer, TRANSPOSED)
    place.put(fuse_conv_bn_eval(layer, norm, transpose=is_transposed))
    follower.clear()
