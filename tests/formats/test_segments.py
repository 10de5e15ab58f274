"""Segments: overlaps are seen, counted and kept; free text never becomes a name."""

from __future__ import annotations

import numpy as np
import pytest

from unet_batch.errors import VoxelError
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.segments import Segment, segments_to_masks


def segment(number: int, start: int, stop: int, meaning: str = "Liver") -> Segment:
    drawn = np.zeros((1, 1, 6), np.bool_)
    drawn[..., start:stop] = True
    return Segment(number, f"Segment {number} of Mr. Muster", meaning, drawn.copy)


def test_the_later_segment_shows_and_both_are_kept() -> None:
    masks = segments_to_masks(
        [segment(2, 2, 5), segment(1, 0, 4), segment(3, 5, 6)],
        np.eye(4),
        MaskRules(),
        labels="ref",
        where="a",
    )
    assert masks["ref"].voxels_zyx.ravel().tolist() == [1, 1, 2, 2, 2, 3]
    assert masks["ref-segment1"].voxels_zyx.ravel().tolist() == [1, 1, 1, 1, 0, 0]
    assert masks["ref-segment2"].voxels_zyx.ravel().tolist() == [0, 0, 2, 2, 2, 0]
    assert list(masks) == ["ref", "ref-segment1", "ref-segment2"]
    assert masks["ref"].warnings == ("segments 1, 2 overlap in 2 voxels: the later one shows",)


def test_names_are_coded_meanings_made_unique() -> None:
    segments = [segment(1, 0, 1), segment(2, 1, 2), segment(3, 2, 3, "Muster; *1950")]
    (mask,) = segments_to_masks(segments, np.eye(4), MaskRules(), labels="ref", where="a").values()
    assert [c.name for c in mask.classes] == ["background", "Liver", "Liver_2", "class_3"]


def test_several_segments_of_one_pattern_are_one_class() -> None:
    rules = MaskRules(segments={5: "segment [12]*"}, class_names={5: "both"})
    (mask,) = segments_to_masks(
        [segment(1, 0, 3), segment(2, 2, 4), segment(3, 3, 5)],
        np.eye(4),
        rules,
        labels="ref",
        where="a",
    ).values()
    assert mask.voxels_zyx.ravel().tolist() == [5, 5, 5, 5, 0, 0]
    assert mask.warnings == ()


@pytest.mark.parametrize("number", [0, -1, 70000])
def test_numbers_that_are_no_values_are_refused(number: int) -> None:
    with pytest.raises(VoxelError, match="expected numbers of 1 to 65535"):
        segments_to_masks([segment(number, 0, 1)], np.eye(4), MaskRules(), labels="a", where="a")
