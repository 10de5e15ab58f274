"""Losses of logits against a truth that may be partial, at one or several resolutions.

Partial labels. A Volume may be annotated with some of the classes only. Where its truth says
background there, the truth is "background, or one of the others". With softmax that is the
marginal loss (Shi et al. 2021, Medical Image Analysis 70): the probabilities of the background
and of the classes not annotated are added up before anything is compared,

    logit(background) <- log(sum of exp of these logits)         logit(the others) <- -1e4

so that a network is neither rewarded nor punished for finding them. With sigmoid every class
is a question of its own, and those that nobody answered are left out of the mean.

Deep supervision. Logits may come as a list, from the full resolution to coarser ones; each is
compared with the truth's nearest voxels and weighs half of the one before (Isensee et al.
2021), the weights adding up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from monai.losses import DiceLoss, TverskyLoss

from unet_batch.planning.specs.recipe import LossSpec
from unet_batch.training.targets import ClassTable

_NEVER = -1e4
"""A logit of probability 0 that is finite: 0 * -inf would be NaN."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What the logits of a batch are compared with.

    Attributes
    ----------
    indices: of the truth's values (n, 1, ...), any dtype (`ClassTable.values`).
    known: bool (n, channels): whether the sample's Volume tells of the class; None: of all.
    weights: of each voxel, float32 (n, 1, ...); None: all alike.
    """

    indices: torch.Tensor
    known: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def resized(self, shape: Sequence[int]) -> Truth:
        """The nearest voxels at the resolution `shape`."""
        if tuple(self.indices.shape[2:]) == tuple(shape):
            return self
        weights = None if self.weights is None else _nearest(self.weights, shape)
        return replace(self, indices=_nearest(self.indices, shape), weights=weights)


class SegmentationLoss:
    """The loss of `spec` but for the critic's term, of logits (n, channels, ...)."""

    def __init__(self, spec: LossSpec, table: ClassTable) -> None:
        self._spec, self._table = spec, table
        self._class_weights = torch.tensor(spec.class_weights)
        batch = spec.over_batch
        self._dice = DiceLoss(reduction="none", batch=batch)
        self._tversky = TverskyLoss(
            reduction="none",
            alpha=1 - spec.tversky_beta,
            beta=spec.tversky_beta,
            batch=batch,
        )

    def __call__(self, logits: torch.Tensor | Sequence[torch.Tensor], truth: Truth) -> torch.Tensor:
        """The loss, a scalar. Logits of several resolutions come finest first."""
        if isinstance(logits, torch.Tensor):
            return self._at_one_scale(logits.float(), truth)
        halves = [0.5**k for k in range(len(logits))]
        losses = [
            half * self._at_one_scale(one.float(), truth.resized(one.shape[2:]))
            for half, one in zip(halves, logits, strict=True)
        ]
        return torch.stack(losses).sum() / sum(halves)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Of the activation, (n, channels, ...)."""
        is_softmax = self._table.activation == "softmax"
        return logits.softmax(1) if is_softmax else logits.sigmoid()

    def _at_one_scale(self, logits: torch.Tensor, truth: Truth) -> torch.Tensor:
        spec = self._spec
        if truth.known is not None and self._table.activation == "softmax":
            logits = merge_unknown(logits, truth.known)
        loss = logits.new_zeros(())
        if spec.cross_entropy or spec.focal:
            loss = loss + self._voxel_terms(logits, truth)
        if spec.dice or spec.tversky:
            loss = loss + self._region_terms(logits, truth)
        return loss

    def _voxel_terms(self, logits: torch.Tensor, truth: Truth) -> torch.Tensor:
        """Cross-entropy and focal loss, (1 - p)^gamma of it (Lin et al. 2017, eq. 4)."""
        spec, entropy = self._spec, self._entropy(logits, truth)
        terms = spec.cross_entropy * entropy
        if spec.focal:
            # Of certainty itself, 0, a root has no slope.
            doubt = (1 - torch.exp(-entropy)).clamp(min=1e-7)
            terms = terms + spec.focal * doubt**spec.focal_gamma * entropy
        weights = self._voxel_weights(truth)
        if weights is not None:
            terms = terms * weights
        if truth.known is None or self._table.activation == "softmax":
            return terms.mean()
        return _mean_of_known(terms.flatten(2).mean(2), truth.known)

    def _entropy(self, logits: torch.Tensor, truth: Truth) -> torch.Tensor:
        """-log of the probability of what is true: (n, 1, ...) or, of a sigmoid, each class's."""
        if self._table.activation == "softmax":
            indices = truth.indices.squeeze(1).long()
            return F.cross_entropy(logits, indices, reduction="none").unsqueeze(1)
        targets = self._table.targets(truth.indices)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def _voxel_weights(self, truth: Truth) -> torch.Tensor | None:
        if not len(self._class_weights):
            return truth.weights
        weights = self._class_weights.to(truth.indices.device)[truth.indices.long()]
        return weights if truth.weights is None else weights * truth.weights

    def _region_terms(self, logits: torch.Tensor, truth: Truth) -> torch.Tensor:
        spec, first = self._spec, self._table.first_foreground
        predicted = self.probabilities(logits)[:, first:]
        targets = self._table.targets(truth.indices)[:, first:]
        known = None if truth.known is None else truth.known[:, first:]
        if known is not None:
            is_known = known[(..., *(None,) * (logits.ndim - 2))]
            predicted, targets = predicted * is_known, targets * is_known
        loss = logits.new_zeros(())
        for weight, term in ((spec.dice, self._dice), (spec.tversky, self._tversky)):
            if weight:
                loss = loss + weight * self._mean_over_classes(term(predicted, targets), known)
        return loss

    def _mean_over_classes(self, losses: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
        """The mean of losses a sample and class, or a class, over those that are known."""
        if known is None:
            return losses.mean()
        if self._spec.over_batch:
            return _mean_of_known(losses.flatten(), known.any(0))
        return _mean_of_known(losses.flatten(1), known)


def merge_unknown(logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Logits with the classes that are not `known` (n, channels) made part of the background."""
    is_hidden = ~known[(..., *(None,) * (logits.ndim - 2))]
    is_merged = is_hidden.clone()
    is_merged[:, 0] = True
    background = logits.masked_fill(~is_merged, -torch.inf).logsumexp(1, keepdim=True)
    others = logits[:, 1:].masked_fill(is_hidden[:, 1:], _NEVER)
    return torch.cat([background, others], dim=1)


def _mean_of_known(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (values * known).sum() / known.sum().clamp(min=1)


def _nearest(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return F.interpolate(values.to(torch.float32), size=list(shape), mode="nearest-exact")
