"""Learner: a network with its optimiser, schedule and averaged weights; one call a step.

Plain torch, without Ray: what a worker does between two batches, and what a checkpoint holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from unet_batch.models.precision import memory_layout, resolve_precision
from unet_batch.planning.specs.recipe import TrainingSpec
from unet_batch.training.batch import Batch
from unet_batch.training.critic import Adversary
from unet_batch.training.losses import SegmentationLoss, Truth
from unet_batch.training.optimizers import make_optimizer, make_schedule
from unet_batch.training.targets import ClassTable


class Learner:
    """Trains `network` as `spec` says, to tell the classes of `table` apart.

    `network` may be wrapped (DistributedDataParallel); `plain` is the one inside, whose weights
    are averaged, saved and used for prediction. In train mode it may return a list of logits,
    from the full resolution to coarser ones.

    Attributes
    ----------
    step: optimiser steps done so far.
    averaged: the network with averaged weights, the one to predict with; in eval mode.
    """

    def __init__(
        self,
        plain: torch.nn.Module,
        spec: TrainingSpec,
        table: ClassTable,
        *,
        spatial_dims: int,
        in_channels: int,
        device: torch.device,
        rank: int = 0,
        wrap: Callable[[torch.nn.Module], torch.nn.Module] = lambda network: network,
    ) -> None:
        self.precision = resolve_precision(spec.precision, device)
        self.device = device
        self.step = 0
        self._rank = rank
        self._layout = memory_layout(self.precision, device, spatial_dims)
        # torch's annotations leave out `memory_format`, its documentation does not.
        self._plain = plain.to(device=device, memory_format=self._layout).train()  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self._plain).eval().requires_grad_(requires_grad=False)
        self._means, self._counts = _tensors(self.averaged)
        self._floats, self._plain_counts = _tensors(self._plain)
        self._network = wrap(self._plain)
        self._spec, self._table = spec, table
        self._loss = SegmentationLoss(spec.loss, table)
        self._optimizer = make_optimizer(self._plain, spec)
        self._schedule = make_schedule(self._optimizer, spec)
        self._adversary = None
        if spec.loss.adversarial:
            self._adversary = Adversary(
                spec.loss,
                spatial_dims=spatial_dims,
                in_channels=in_channels,
                num_classes=len(table.foreground),
                device=device,
            )

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def learn(self, batch: Batch) -> torch.Tensor:
        """One optimiser step on `batch`; its loss, a scalar on the device.

        What dropout leaves out depends on (seed, rank, step) alone, as the patches do: a
        training that resumes goes on as if undisturbed. It seeds torch's generators.
        """
        torch.manual_seed(self._seed_of_step())
        image = batch.image.to(self.device, non_blocking=True, memory_format=self._layout)
        truth = batch.truth_on(self.device)
        with self.autocast():
            logits = self._network(image)
        loss = self._loss(logits, truth)
        if self._adversary is not None:
            loss = loss + self._adversarial_term(self._adversary, image, logits, truth)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._plain.parameters(), self._spec.gradient_clip)
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        self._average()
        return loss.detach()

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
            "adversary": self._adversary.state() if self._adversary else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of a Learner of the same network and spec."""
        self.step = state["step"]
        self._plain.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        if self._adversary:
            self._adversary.restore(state["adversary"])

    def _seed_of_step(self) -> int:
        sequence = np.random.SeedSequence([self._spec.seed, self._rank, self.step])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _adversarial_term(
        self,
        adversary: Adversary,
        image: torch.Tensor,
        logits: torch.Tensor | list[torch.Tensor],
        truth: Truth,
    ) -> torch.Tensor:
        """The critic's step, and its weighted judgement of the finest logits.

        Where a class is not annotated both masks are the network's, which are told apart by
        nobody.
        """
        finest = logits if isinstance(logits, torch.Tensor) else logits[0]
        first = self._table.first_foreground
        predicted = self._loss.probabilities(finest.float())[:, first:]
        target = self._table.targets(truth.indices)[:, first:]
        if truth.known is not None:
            is_known = truth.known[:, first:][(..., *(None,) * (target.ndim - 2))]
            target = torch.where(is_known, target, predicted.detach())
        with self.autocast():
            adversary.learn(image, predicted, target)
            difference = adversary.judge(image, predicted, target)
        return self._spec.loss.adversarial * difference

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the current ones; slowly only once there is a past."""
        decay = min(self._spec.ema_decay, (1 + self.step) / (10 + self.step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self._means, self._floats, self.step)
        for mean, value in zip(self._counts, self._plain_counts, strict=True):
            mean.copy_(value)


def _tensors(network: torch.nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Parameters and buffers: those that can be averaged, and those that cannot."""
    tensors = [one.detach() for one in (*network.parameters(), *network.buffers())]
    floats = [one for one in tensors if one.is_floating_point()]
    return floats, [one for one in tensors if not one.is_floating_point()]
