"""Steps of post-processing are told by name, and say which masks they work on."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from unet_batch.errors import SpecError
from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.planning.volume_info import LabelClass

CLASSES = (LabelClass(0, "background"), LabelClass(3, "liver"), LabelClass(1, "tumour"))


def step_of(**fields: Any) -> Any:
    return TypeAdapter(PostprocessStep).validate_python(fields)


def test_by_default_each_class_is_a_mask_of_its_own() -> None:
    assert step_of(step="opening").masks(CLASSES) == ((3,), (1,))


def test_named_classes_keep_their_order() -> None:
    step = step_of(step="closing", classes=["tumour", "liver"])
    assert step.masks(CLASSES) == ((1,), (3,))


def test_classes_may_be_one_mask() -> None:
    assert step_of(step="fill_holes", together=True).masks(CLASSES) == ((3, 1),)


@pytest.mark.parametrize("name", ["kidney", "background"])
def test_a_class_that_the_model_has_not_is_refused(name: str) -> None:
    step = step_of(step="fill_holes", classes=["liver", name])
    with pytest.raises(SpecError, match=rf"\['{name}'\].*it has \['liver', 'tumour'\]"):
        step.masks(CLASSES)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"step": "smooth"}, "does not match any of the expected tags"),
        ({"step": "remove_small"}, "give one of `min_voxels` and `min_mm3`"),
        ({"step": "remove_small", "min_voxels": 5, "min_mm3": 2.0}, "give one of"),
        ({"step": "opening", "classes": ["liver", "liver"]}, "names a class twice"),
        ({"step": "opening", "connectivity": 4}, "1, 2 or 3"),
        ({"step": "opening", "iterations": 0}, "greater than or equal to 1"),
        ({"step": "opening", "min_voxels": 3}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        step_of(**fields)
