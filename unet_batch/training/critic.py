"""SegAN's critic (Xue et al. 2018, Neuroinformatics 16): a loss that is learnt as well.

The critic looks at a scan through two masks, the network's and the true one, and is trained to
tell them apart at every scale; the network is trained so that it cannot:

    image x predicted mask ──critic──▶ features of each layer ─┐
                                                               ├─ mean absolute difference
    image x true mask ───────critic──▶ features of each layer ─┘

The critic makes that difference larger, the network smaller.

Its weights are held within +-0.05, as the authors' code does, or the difference would grow
without bound. Group normalisation without weights stands in for their batch normalisation: it
asks for no second patch and keeps no averages.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from unet_batch.planning.specs.recipe import LossSpec

_NUM_LAYERS = 3
_WEIGHT_LIMIT = 0.05
_BETAS = (0.5, 0.999)  # of Adam, for adversarial training (Radford et al. 2016)


class Critic(nn.Module):
    """Strided convolutions that halve the patch; `forward` gives the features of each."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: int) -> None:
        super().__init__()
        make: Any = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        widths = [in_channels, *(channels * 2**k for k in range(_NUM_LAYERS))]
        self.layers = nn.ModuleList(
            nn.Sequential(
                make(before, after, kernel_size=3, stride=2, padding=1),
                nn.GroupNorm(1, after, affine=False) if number else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for number, (before, after) in enumerate(pairwise(widths))
        )

    def forward(self, seen: torch.Tensor) -> list[torch.Tensor]:
        """Features of each layer, of masked images (n, channels x classes, ...)."""
        features = []
        for layer in self.layers:
            seen = layer(seen)
            features.append(seen)
        return features


class Adversary:
    """A Critic with its optimiser; equal on all ranks, as it averages their gradients."""

    def __init__(
        self,
        spec: LossSpec,
        *,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self._critic = Critic(spatial_dims, in_channels * num_classes, spec.critic_channels)
        self._critic.to(device)
        self._optimizer = torch.optim.Adam(
            self._critic.parameters(), spec.critic_rate, betas=_BETAS
        )

    def learn(
        self, image: torch.Tensor, predicted: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """One step towards telling the masks apart; how far they were.

        `image` (n, c, ...); `predicted` and `target` (n, classes, ...), from 0 to 1.
        """
        difference = self._difference(image, predicted.detach(), target)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(-difference)
        _average_gradients(self._critic)
        self._optimizer.step()
        with torch.no_grad():
            for parameter in self._critic.parameters():
                parameter.clamp_(-_WEIGHT_LIMIT, _WEIGHT_LIMIT)
        return difference.detach()

    def judge(
        self, image: torch.Tensor, predicted: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """How far apart the masks are to the critic: what the network makes small."""
        self._critic.requires_grad_(requires_grad=False)
        difference = self._difference(image, predicted, target)
        self._critic.requires_grad_(requires_grad=True)
        return difference

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"critic": self._critic.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of another."""
        self._critic.load_state_dict(state["critic"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _difference(
        self, image: torch.Tensor, predicted: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Mean over layers of the mean absolute difference of features (Xue et al., eq. 2)."""
        ours = self._critic(_masked(image, predicted))
        theirs = self._critic(_masked(image, target))
        apart = [
            torch.mean(torch.abs(a.float() - b.float())) for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(apart).mean()


def _masked(image: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Every channel of the image through every mask: (n, channels x classes, ...)."""
    return (image.unsqueeze(1) * masks.unsqueeze(2)).flatten(1, 2)


def _average_gradients(network: nn.Module) -> None:
    """The mean of all ranks' gradients, as DistributedDataParallel makes of the network's."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for parameter in network.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()
