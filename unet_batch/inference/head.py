"""Head: what is read out of finished sums: labels, and probabilities where they are asked for.

    sums (members * classes, z, y, x) of weighted logits      weights (z, y, x), summed
        argmax      softmax, one member: the largest sum; needs no weights and no division
        threshold   sigmoid, one member, at 0.5: sum > 0; neither
        otherwise   sums / weights -> softmax or sigmoid of each member -> mean over members
                    -> largest, or above the threshold; and round(255 p), if asked for

The result has planes (p, z, y, x): those of the labels, then those of the probabilities.
Softmax has one plane of labels. Classes of a sigmoid overlap, so each has a plane of its own.
A voxel without weight, which no tile covered, is background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.errors import BundleError
from unet_batch.planning.cost import MAX_SUMS_READ
from unet_batch.planning.specs.recipe import Activation
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.tiling.box import Box

if TYPE_CHECKING:  # with a Bundle comes MONAI, which a worker that stitches need not wait for
    from unet_batch.models.bundle import Bundle

NOT_FINITE = (
    "the network's logits are NaN or infinite; check its weights, or predict with"
    " inference.precision=fp32"
)
PROBABILITY_STEPS = 255
"""A probability p is stored as round(255 p), in a byte."""


@dataclass(frozen=True, slots=True)
class Head:
    """How finished sums become labels.

    Attributes
    ----------
    class_values: label value of each class of the logits.
    activation: `softmax`, of classes that exclude each other, or `sigmoid`, of any.
    num_members: networks whose probabilities are averaged; their logits lie one after another.
    threshold: the probability above which a sigmoid's class is there.
    with_probabilities: whether planes of probabilities follow those of the labels.
    """

    class_values: tuple[int, ...]
    activation: Activation = "softmax"
    num_members: int = 1
    threshold: float = 0.5
    with_probabilities: bool = False

    @classmethod
    def of(cls, bundles: Sequence[Bundle], inference: InferenceSpec) -> Self:
        """What a Job reads out of the sums of its Bundles' logits."""
        return cls(
            tuple(one.value for one in bundles[0].classes),
            bundles[0].activation,
            len(bundles),
            inference.threshold,
            inference.probabilities,
        )

    @property
    def num_classes(self) -> int:
        """Classes of one member's logits."""
        return len(self.class_values)

    @property
    def num_labels(self) -> int:
        """Planes of labels: one, or one a class where classes overlap."""
        return 1 if self.activation == "softmax" else self.num_classes

    @property
    def num_planes(self) -> int:
        """Planes of labels and of probabilities."""
        return self.num_labels + self.num_classes * self.with_probabilities

    @property
    def is_argmax(self) -> bool:
        """Whether the class index of the largest sum is all that is wanted."""
        return self._is_lone and self.activation == "softmax" and not self.with_probabilities

    @property
    def needs_weights(self) -> bool:
        """Whether the sums have to be divided by the summed weights."""
        return not self._sums_decide or self.with_probabilities

    @property
    def num_logits(self) -> int:
        """Logits a voxel, of all members."""
        return self.num_members * self.num_classes

    @property
    def num_sums(self) -> int:
        """Sums a voxel: the logits, and last the weights where they are needed."""
        return self.num_logits + self.needs_weights

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest unsigned type that holds every label value."""
        return np.dtype(np.uint8 if max(self.class_values) < 256 else np.uint16)

    def pieces(self, box: Box) -> Iterator[Box]:
        """`box` (z, y, x) in parts that are read out at once: whole rows, MAX_SUMS_READ sums."""
        _, y, x = box.shape
        room = MAX_SUMS_READ // self.num_sums
        shape = max(1, room // (y * x)), max(1, min(y, room // x)), box.stop[2]
        return box.split(shape)

    def room(self, shape_zyx: Sequence[int], device: torch.device) -> torch.Tensor:
        """An uninitialised tensor for the planes of a box of voxels."""
        shape = (self.num_planes, *shape_zyx)
        return torch.empty(shape, dtype=self._device_dtype, device=device)

    def planes(self, sums_czyx: torch.Tensor) -> torch.Tensor:
        """The planes (p, z, y, x) of finished sums (`num_sums`, z, y, x), which are not changed.

        Raises BundleError where a sum is NaN or infinite.
        """
        check_finite(sums_czyx)
        if not self.needs_weights:
            return self._labels(sums_czyx)
        sums, weights = sums_czyx[:-1], sums_czyx[-1]
        probabilities = self.probabilities(sums, weights)
        labels = self._labels(sums if self._sums_decide else probabilities)
        if not self.with_probabilities:
            return labels
        steps = probabilities.mul_(PROBABILITY_STEPS).round_().to(labels.dtype)
        return torch.cat([labels, steps])

    def probabilities(self, sums_czyx: torch.Tensor, weights_zyx: torch.Tensor) -> torch.Tensor:
        """Mean of the members' probabilities, float32 (classes, z, y, x).

        Without weight a voxel is background: the first class of a softmax, none of a sigmoid.
        """
        is_covered = weights_zyx > 0
        logits = sums_czyx / torch.where(is_covered, weights_zyx, 1)
        members = logits.view(self.num_members, self.num_classes, *weights_zyx.shape)
        is_softmax = self.activation == "softmax"
        each = members.softmax(1) if is_softmax else members.sigmoid_()
        mean = each.mean(0) if self.num_members > 1 else each[0]
        if not is_covered.all():
            mean *= is_covered
            mean[0] += ~is_covered * is_softmax
        return mean

    def label_values(self, planes_pzyx: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """Planes with label values in place of class indices, of ones and zeros; else as they are.

        The type is `dtype`; probabilities stay from 0 to 255.
        """
        values: NDArray[np.unsignedinteger] = np.array(self.class_values, self.dtype)
        if self.is_argmax and self.class_values == tuple(range(self.num_classes)):
            return planes_pzyx.astype(self.dtype, copy=False)
        if self.is_argmax:
            # Indexed, not `take`n: that makes eight bytes of every index at once.
            labels: NDArray[np.unsignedinteger] = values[planes_pzyx]
            return labels
        planes: NDArray[np.unsignedinteger] = planes_pzyx.astype(self.dtype)
        if self.activation == "softmax":
            planes[0] = values[planes_pzyx[0]]
        else:
            planes[: self.num_labels] *= values[:, None, None, None]
        return planes

    @property
    def _device_dtype(self) -> torch.dtype:
        """What the planes are made in: class indices, ones and zeros, probabilities."""
        return torch.uint8 if self.num_classes <= 256 else torch.int32

    @property
    def _is_lone(self) -> bool:
        return self.num_members == 1

    @property
    def _sums_decide(self) -> bool:
        """Whether the labels follow from the sums: weights are positive, and change no order."""
        at_zero = self.activation == "softmax" or self.threshold == 0.5
        return self._is_lone and at_zero

    def _labels(self, scores_czyx: torch.Tensor) -> torch.Tensor:
        """Labels of sums or of probabilities, whichever decides."""
        if self.activation == "softmax":
            return class_indices(scores_czyx)[None].to(self._device_dtype)
        limit = 0.0 if self._sums_decide else self.threshold
        return (scores_czyx > limit).to(self._device_dtype)


def check_finite(sums_czyx: torch.Tensor) -> None:
    """Raises BundleError where a sum is NaN or infinite."""
    if not torch.isfinite(sums_czyx.sum()):
        raise BundleError(NOT_FINITE)


def class_indices(scores_czyx: torch.Tensor) -> torch.Tensor:
    """Index of the largest class of every voxel; the lower index where two are equal.

    `max(0)` rather than `argmax(0)`, which is 10 to 40 times slower classes-first.
    Raises BundleError where a largest one is NaN or infinite.
    """
    best = scores_czyx.max(0)
    if not torch.isfinite(best.values.sum()):
        raise BundleError(NOT_FINITE)
    return best.indices
