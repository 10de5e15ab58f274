"""Optimisers by name, and the learning rate step by step."""

from __future__ import annotations

import math
from typing import Any

import torch

from unet_batch.planning.specs.recipe import TrainingSpec

_MOMENTUM_CYCLE = 0.1
"""By how much one_cycle lowers the momentum while the rate is high (Smith 2018: 0.95 to 0.85)."""

_ADAM_MOMENTUM = 0.95
"""The highest first beta of Adam with one_cycle, that of torch's OneCycleLR."""


def make_optimizer(network: torch.nn.Module, spec: TrainingSpec) -> torch.optim.Optimizer:
    """AdamW, Adam, or SGD with Nesterov's momentum, all parameters of a step in one call.

    Kernels decay; biases, and what norms and activations learn (one number a channel), do not:
    their size has nothing to do with that of the weights.
    """
    parameters, rate, decay = _groups(network), spec.learning_rate, spec.weight_decay
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            rate,
            momentum=spec.momentum,
            nesterov=spec.momentum > 0,
            weight_decay=decay,
            fused=True,
        )
    make = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.Adam
    return make(parameters, rate, weight_decay=decay, fused=True)


def _groups(network: torch.nn.Module) -> list[dict[str, Any]]:
    """The parameters that decay, and those that do not."""
    kernels = [one for one in network.parameters() if one.ndim > 1]
    others = [one for one in network.parameters() if one.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": kernels},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_schedule(
    optimizer: torch.optim.Optimizer, spec: TrainingSpec
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate step by step, `spec.learning_rate` at its highest.

    `one_cycle` also cycles the momentum (Smith 2018); `poly` is (1 - t) ** 0.9 (nnU-Net).
    """
    if spec.schedule == "one_cycle":
        most = spec.momentum if spec.optimizer == "sgd" else _ADAM_MOMENTUM
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            spec.learning_rate,
            total_steps=spec.steps + 1,
            pct_start=spec.warmup_share,
            max_momentum=most,
            base_momentum=max(most - _MOMENTUM_CYCLE, 0.0),
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
