"""Labels: stored values become classes, and whatever no rule covers is named."""

from __future__ import annotations

import numpy as np
import pytest

from unet_batch.errors import VoxelError
from unet_batch.formats.labels import MaskRules, as_mask

GREYS = np.array([[[0, 127, 255, 255], [0, 0, 127, 130]]], np.uint8)


def test_values_are_mapped_and_named() -> None:
    rules = MaskRules(values={127: 1, 255: 2}, class_names={1: "myelin", 2: "axon"})
    mask = as_mask(GREYS[:, :, :3], np.eye(4), rules, where="a.png")
    assert mask.voxels_zyx.tolist() == [[[0, 1, 2], [0, 0, 1]]]
    assert [c.name for c in mask.classes] == ["background", "myelin", "axon"]
    assert mask.warnings == ()


def test_stray_values_are_refused_by_value_and_count() -> None:
    with pytest.raises(VoxelError, match=r"a\.png: values 130 \(1 voxels\).*stray_mask_values"):
        as_mask(GREYS, np.eye(4), MaskRules(values={127: 1, 255: 2}), where="a.png")


def test_stray_values_go_to_the_nearest_where_asked() -> None:
    rules = MaskRules(values={127: 1, 255: 2}, strays="nearest")
    mask = as_mask(GREYS, np.eye(4), rules, where="a.png")
    assert mask.voxels_zyx[0, 1].tolist() == [0, 0, 1, 1]
    assert "130 (1 voxels)" in mask.warnings[0]


def test_without_rules_values_stay_and_get_numbers_for_names() -> None:
    mask = as_mask(GREYS.astype(np.float32) * 3, np.eye(4), MaskRules(), where="a")
    assert mask.voxels_zyx.dtype == np.uint16
    assert [c.name for c in mask.classes] == ["background", "class_381", "class_390", "class_765"]


@pytest.mark.parametrize("bad", [-1, 0.5, 70000, np.nan])
def test_values_that_are_no_classes_are_named(bad: float) -> None:
    with pytest.raises(VoxelError, match="whole numbers"):
        as_mask(np.full((1, 2, 2), bad), np.eye(4), MaskRules(), where="a")
