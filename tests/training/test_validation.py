from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import nn

from unet_batch.training.validation import mean_dice, predict_logits


class Threshold(nn.Module):
    """Class 1 where the voxel is above 0."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.cat([-tiles, tiles], dim=1)


def test_a_volume_larger_and_smaller_than_the_tile_is_predicted_whole() -> None:
    image = torch.randn(1, 9, 20, 5)
    logits = predict_logits(Threshold(), image, roi=(8, 8, 8), autocast=nullcontext())
    assert torch.equal(logits.argmax(0), (image[0] > 0).long())


def test_a_planar_network_sees_every_slice() -> None:
    image = torch.randn(1, 7, 20, 12)
    logits = predict_logits(Threshold(), image, roi=(8, 8), autocast=nullcontext())
    assert torch.equal(logits.argmax(0), (image[0] > 0).long())


def test_a_class_that_no_mask_has_does_not_count() -> None:
    mean, by_class = mean_dice([[0.5, math.nan], [0.7, 0.8]])
    assert by_class == [0.6, 0.8]
    assert mean == 0.7
    assert math.isnan(mean_dice([[math.nan]])[0])
