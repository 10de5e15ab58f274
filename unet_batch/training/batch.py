"""Batch: the patches of one step, from the readers to the Learner."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from unet_batch.training.losses import Truth


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches of one step.

    Attributes
    ----------
    image: normalised, float32 (n, c, *roi).
    truth: indices of the truth's values (n, 1, *roi), as `ClassTable` numbers them.
    known: bool (n, channels of the logits), False where a Volume is not annotated with the
        class; None: all are.
    weights: of the voxels in cross-entropy, float32 (n, 1, *roi); None: all alike.
    """

    image: torch.Tensor
    truth: torch.Tensor
    known: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def pinned(self) -> Batch:
        """The same in memory from which a GPU copies while it computes."""
        there = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{k: v.pin_memory() for k, v in there.items() if v is not None})

    def truth_on(self, device: torch.device) -> Truth:
        """What the logits are compared with, on `device`."""
        moved = [
            None if one is None else one.to(device, non_blocking=True)
            for one in (self.known, self.weights)
        ]
        return Truth(self.truth.to(device, non_blocking=True), *moved)
