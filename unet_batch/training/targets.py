"""ClassTable: from the values of a truth to what each channel of the logits is to say.

truth        one value a voxel: 0 background, 1 oedema, 2 core, ...
softmax      a channel a value; exactly one holds
sigmoid      a channel a value but the background
regions      a channel a region, the union of some values; regions may overlap
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from unet_batch.planning.specs.recipe import Activation
from unet_batch.planning.volume_info import LabelClass


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Which values of the truth each channel of the logits stands for.

    Attributes
    ----------
    activation: what makes probabilities of the logits.
    classes: one a channel; those of the Bundle.
    values: values that the truth may hold, the background first. Their places in this
        tuple, the *indices*, are what patches hold.
    members: for each channel the indices of its values.
    """

    activation: Activation
    classes: tuple[LabelClass, ...]
    values: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls,
        labels: Sequence[LabelClass],
        activation: Activation = "softmax",
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> ClassTable:
        """The table of a truth whose classes are `labels`, the background first.

        With `regions` the classes are those, numbered from 1.
        """
        values = tuple(one.value for one in labels)
        if regions:
            members = tuple(tuple(map(values.index, region)) for region in regions.values())
            named = zip(regions, members, strict=True)
            classes = tuple(
                LabelClass(number, name, labels[indices[0]].color)
                for number, (name, indices) in enumerate(named, start=1)
            )
            return cls(activation, classes, values, members)
        first = int(activation == "sigmoid")
        own = tuple((k,) for k in range(first, len(values)))
        return cls(activation, tuple(labels[first:]), values, own)

    @property
    def first_foreground(self) -> int:
        """The first channel that is not the background's."""
        return int(self.activation == "softmax")

    @property
    def foreground(self) -> tuple[LabelClass, ...]:
        """The classes but the background."""
        return self.classes[self.first_foreground :]

    def member_values(self, channel: int) -> tuple[int, ...]:
        """The values of the truth that a channel stands for."""
        return tuple(self.values[index] for index in self.members[channel])

    def known(self, annotated: Collection[int]) -> tuple[bool, ...]:
        """For each channel whether a truth with the values `annotated` tells of all of it."""
        there = {0, *annotated}
        return tuple(
            all(self.values[index] in there for index in indices) for indices in self.members
        )

    def targets(self, truth: torch.Tensor) -> torch.Tensor:
        """1 where a channel holds and 0 elsewhere, float32 (n, channels, ...).

        `truth` has the indices (n, 1, ...).
        """
        return torch.cat([_is_one_of(truth, indices) for indices in self.members], dim=1)


def _is_one_of(truth: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    found = truth == indices[0]
    for index in indices[1:]:
        found |= truth == index
    return found.to(torch.float32)
