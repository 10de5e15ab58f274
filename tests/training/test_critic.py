from __future__ import annotations

import pytest
import torch

from unet_batch.planning.specs.recipe import LossSpec
from unet_batch.training.critic import Adversary

CPU = torch.device("cpu")


def adversary(spatial_dims: int = 3, **fields: object) -> Adversary:
    torch.manual_seed(0)
    spec = LossSpec.model_validate({"adversarial": 1, "critic_channels": 4} | fields)
    return Adversary(spec, spatial_dims=spatial_dims, in_channels=2, num_classes=1, device=CPU)


def patch(spatial_dims: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (8,) * spatial_dims
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(1, 1, *shape, generator=generator) > 0.5).float()
    return torch.randn(1, 2, *shape, generator=generator), 1 - target, target


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_critic_learns_to_tell_masks_apart(spatial_dims: int) -> None:
    one = adversary(spatial_dims, critic_rate=5e-3)
    image, wrong, target = patch(spatial_dims)
    apart = [float(one.learn(image, wrong, target)) for _ in range(10)]
    assert apart[-1] > 1.1 * apart[1]


def test_equal_masks_are_not_told_apart_and_better_ones_less() -> None:
    one = adversary()
    image, wrong, target = patch()
    assert float(one.judge(image, target, target)) == 0
    nearly = 0.9 * target + 0.1 * wrong
    assert 0 < float(one.judge(image, nearly, target)) < float(one.judge(image, wrong, target))


def test_its_judgement_moves_the_network_and_not_the_critic() -> None:
    one = adversary()
    image, wrong, target = patch()
    wrong.requires_grad_()
    one.judge(image, wrong, target).backward()
    assert wrong.grad is not None
    assert wrong.grad.any()
    assert all(parameter.grad is None for parameter in one._critic.parameters())
    assert all(parameter.requires_grad for parameter in one._critic.parameters())


def test_weights_stay_bounded_and_channels_are_as_asked() -> None:
    one = adversary(critic_rate=1.0)
    one.learn(*patch())
    assert max(float(p.detach().abs().max()) for p in one._critic.parameters()) < 0.0501
    assert [layer[0].out_channels for layer in one._critic.layers] == [4, 8, 16]
