"""PostprocessStep: what is mended in finished Labels before they are published.

Every Step works on one or more masks. By default each class is a mask of its own; with
`together` the named classes (all of them, where none is named) are one mask.

What one class may do to another is fixed, so that the order of classes hardly matters:

- the masks of a Step are all taken from its input, the output of the Step before;
- what a Step takes out of a mask becomes background;
- what it adds to a mask was background before: no class ever takes a voxel of another;
- where two masks claim the same background voxel, the class that is named first has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unet_batch.errors import SpecError
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.volume_info import LabelClass


class _Step(SpecModel):
    """What all Steps share: which masks they work on, and which voxels touch."""

    classes: tuple[str, ...] = Field((), description="names of classes; empty: all of them")
    together: bool = Field(default=False, description="the classes as one mask, not each its own")
    connectivity: Literal[1, 2, 3] = Field(
        1, description="voxels touch by 1: faces, 2: edges too, 3: corners too (as in scipy)"
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"`classes` names a class twice: {list(self.classes)}")
        return self

    def masks(self, classes: Sequence[LabelClass]) -> tuple[tuple[int, ...], ...]:
        """The label values of each mask, in the order named; 0 is the background.

        Raises SpecError where a class is named that is none of `classes`.
        """
        known = {one.name: one.value for one in classes if one.value}
        unknown = [name for name in self.classes if name not in known]
        if unknown:
            raise SpecError(
                f"inference.postprocess names the classes {unknown}, which the model has not;"
                f" it has {list(known)}"
            )
        values = tuple(known[name] for name in self.classes or known)
        return (values,) if self.together else tuple((value,) for value in values)


class LargestComponent(_Step):
    """Of each mask only the largest connected component stays.

    Of several equally large ones it is that whose first voxel in C order comes first.
    """

    step: Literal["largest_component"]


class RemoveSmall(_Step):
    """Connected components smaller than `min_voxels`, or than `min_mm3`, become background."""

    step: Literal["remove_small"]
    min_voxels: int | None = Field(None, ge=1, description="voxels a component needs to stay")
    min_mm3: float | None = Field(None, gt=0, description="cubic mm a component needs to stay")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if (self.min_voxels is None) == (self.min_mm3 is None):
            raise ValueError("give one of `min_voxels` and `min_mm3`")
        return self


class FillHoles(_Step):
    """Background that a mask encloses becomes part of it; other classes in a hole stay.

    A hole is a component of all that is not the mask, and does not touch the volume's border;
    `connectivity` says how its voxels touch, as the structure of `binary_fill_holes` does. A
    hole in a mask of several classes is filled with the class that most of its faces touch
    (the smallest value, where two are level).
    """

    step: Literal["fill_holes"]


class Opening(_Step):
    """Erosion, then dilation, `iterations` times each: thin and small parts go."""

    step: Literal["opening"]
    iterations: int = Field(1, ge=1, le=16, description="voxels eroded, then dilated")


class Closing(_Step):
    """Dilation, then erosion, `iterations` times each: narrow gaps are closed.

    The volume counts as surrounded by background, so closing takes nothing away at its border.
    What is added to a mask of several classes gets the class that most of the voxels around it
    have, as far as the dilation reaches (the smallest value, where two are level).
    """

    step: Literal["closing"]
    iterations: int = Field(1, ge=1, le=16, description="voxels dilated, then eroded")


PostprocessStep = Annotated[
    LargestComponent | RemoveSmall | FillHoles | Opening | Closing, Field(discriminator="step")
]
"""One Step of `inference.postprocess`, told by its field `step`."""


def steps_for(
    steps: Sequence[PostprocessStep], classes: Sequence[LabelClass]
) -> tuple[PostprocessStep, ...]:
    """The Steps that concern Labels with only some of a model's `classes`, as they do.

    Classes that may overlap have Labels of their own each: a Step that names several is carried
    out on each of them, one that names others is left out.
    """
    known = {one.name for one in classes if one.value}
    concerned = [(step, tuple(one for one in step.classes if one in known)) for step in steps]
    return tuple(
        step.model_copy(update={"classes": names})
        for step, names in concerned
        if names or not step.classes
    )
