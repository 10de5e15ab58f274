"""Learner: a network with its optimiser, schedule and averaged weights; one call a step.

Plain torch, without Ray: what a worker does between two batches, and what a checkpoint holds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.losses import DiceCELoss, DiceLoss

from unet_batch.models.precision import memory_layout, resolve_precision
from unet_batch.planning.specs.recipe import TrainingSpec
from unet_batch.training.sampling import Batch

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Learner:
    """Trains `network` as `spec` says.

    `network` may be wrapped (DistributedDataParallel); `plain` is the one inside, whose weights
    are averaged, saved and used for prediction.

    Attributes
    ----------
    step: optimiser steps done so far.
    averaged: the network with averaged weights, the one to predict with; in eval mode.
    """

    def __init__(
        self,
        plain: torch.nn.Module,
        spec: TrainingSpec,
        *,
        spatial_dims: int,
        device: torch.device,
        wrap: Callable[[torch.nn.Module], torch.nn.Module] = lambda network: network,
    ) -> None:
        self.precision = resolve_precision(spec.precision, device)
        self.device = device
        self.step = 0
        self._layout = memory_layout(self.precision, device, spatial_dims)
        # torch's annotations leave out `memory_format`, its documentation does not.
        self._plain = plain.to(device=device, memory_format=self._layout).train()  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self._plain).eval().requires_grad_(requires_grad=False)
        self._network = wrap(self._plain)
        self._spec = spec
        self._loss = make_loss(spec)
        self._optimizer = make_optimizer(self._plain, spec)
        self._schedule = make_schedule(self._optimizer, spec)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def learn(self, batch: Batch) -> float:
        """One optimiser step on `batch`; its loss."""
        image = batch.image.to(self.device, memory_format=self._layout)
        with self.autocast():
            logits = self._network(image)
        loss = self._loss(logits.float(), batch.truth.to(self.device))
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._plain.parameters(), self._spec.gradient_clip)
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        self._average()
        return float(loss.detach())

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass, as a context."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "network": self._plain.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of a Learner of the same network and spec."""
        self.step = state["step"]
        self._plain.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the current ones; slowly only once there is a past."""
        decay = min(self._spec.ema_decay, (1 + self.step) / (10 + self.step))
        averaged, current = self.averaged.state_dict(), self._plain.state_dict()
        for mean, value in zip(averaged.values(), current.values(), strict=True):
            if mean.is_floating_point() and self._spec.ema_decay > 0:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def make_loss(spec: TrainingSpec) -> Loss:
    """The loss of logits (n, classes, ...) against class indices (n, 1, ...)."""
    if spec.loss == "cross_entropy":
        return lambda logits, truth: torch.nn.functional.cross_entropy(
            logits, truth.squeeze(1).long()
        )
    make = DiceCELoss if spec.loss == "dice_ce" else DiceLoss
    loss: Loss = make(softmax=True, to_onehot_y=True, include_background=False)
    return loss


def make_optimizer(network: torch.nn.Module, spec: TrainingSpec) -> torch.optim.Optimizer:
    """AdamW, Adam, or SGD with Nesterov momentum 0.99 (nnU-Net's, Isensee et al. 2021)."""
    rate, decay = spec.learning_rate, spec.weight_decay
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), rate, momentum=0.99, nesterov=True, weight_decay=decay
        )
    make = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.Adam
    return make(network.parameters(), rate, weight_decay=decay)


def make_schedule(
    optimizer: torch.optim.Optimizer, spec: TrainingSpec
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate step by step, `spec.learning_rate` at its highest.

    `one_cycle` also cycles the momentum (Smith 2018); `poly` is (1 - t) ** 0.9 (nnU-Net).
    """
    if spec.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            spec.learning_rate,
            total_steps=spec.steps + 1,
            pct_start=spec.warmup_share,
        )
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, spec))


def rate_factor(step: int, spec: TrainingSpec) -> float:
    """Share of the highest learning rate at `step` (0-based): a linear warm-up, then the decay.

    >>> rate_factor(50, TrainingSpec(steps=100, schedule="constant", warmup_share=0.0))
    1.0
    """
    num_warmup = round(spec.steps * spec.warmup_share)
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = min((step - num_warmup) / max(spec.steps - num_warmup, 1), 1.0)
    if spec.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if spec.schedule == "poly":
        return float((1 - progress) ** 0.9)
    return 1.0
