from __future__ import annotations

import pytest
import torch

from unet_batch.errors import SpecError
from unet_batch.models.networks.baselines import pspnet
from unet_batch.models.networks.definition import Definition, Frame
from unet_batch.models.networks.trial import try_network
from unet_batch.models.networks.unets import dynunet, residual_unet

SOLID, FLAT = Frame(3, 2, 3), Frame(2, 2, 3)


def own(module: type[torch.nn.Module]) -> Definition:
    arguments = {"in_channels": 2, "out_channels": 3}
    return Definition(lambda **_: module(), arguments, (1, 1), "mine")


class Constant(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


class Looking(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image if float(image.max()) > 0 else -image


def test_what_fits_passes_and_takes_no_memory() -> None:
    try_network(residual_unet(SOLID), (512, 512, 512), batch_size=64)
    try_network(dynunet(SOLID, deep_supervision=2), (64, 64, 64), batch_size=2)


def test_a_roi_that_is_no_multiple_is_refused_with_one_that_is() -> None:
    with pytest.raises(SpecError, match=r"multiples of \[16, 16, 16\]; use \[48, 64, 32\]"):
        try_network(residual_unet(SOLID), (40, 64, 32), batch_size=2)


def test_instance_norm_over_a_single_voxel_is_refused_before_training() -> None:
    with pytest.raises(SpecError, match=r"2 tiles of \[16, 16, 16\].*does not pass"):
        try_network(dynunet(SOLID), (16, 16, 16), batch_size=2)


def test_batch_norm_over_a_single_value_is_refused_before_training() -> None:
    small = pspnet(FLAT, width=4, blocks=[1, 1, 1, 1])
    try_network(small, (32, 32), batch_size=2)
    with pytest.raises(SpecError, match="larger roi or batch_size"):
        try_network(small, (32, 32), batch_size=1)


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(SpecError, match=r"returned \(2, 2, 8, 8\).*expected logits \(2, 3, 8, 8\)"):
        try_network(own(Constant), (8, 8), batch_size=2)


def test_a_network_that_looks_at_values_passes() -> None:
    try_network(own(Looking), (8, 8), batch_size=2)
