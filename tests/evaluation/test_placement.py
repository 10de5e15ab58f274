"""Where classes lie: counted by plane, the same however the mask is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from unet_batch.evaluation.placement import Profiles, count_profiles, placements_of
from unet_batch.tiling.box import Box

VALUES = (1, 7)


def mask_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 1, 7, 200], np.uint8), (6, 7, 5), p=(0.4, 0.3, 0.2, 0.1))


@given(seed=st.integers(0, 999), cell=st.tuples(*[st.integers(1, 7)] * 3))
def test_profiles_of_regions_add_up_to_those_of_the_mask(seed: int, cell: tuple[int, ...]) -> None:
    mask = mask_of(seed)
    total = Profiles.nothing(len(VALUES), mask.shape)
    for region in Box.from_shape(mask.shape).split(cell):
        total += count_profiles(mask[region.slices], VALUES, region=region, shape_zyx=mask.shape)
    for axis, counts in enumerate(total.per_axis):
        others = tuple(a for a in range(3) if a != axis)
        assert_array_equal(counts, [(mask == value).sum(axis=others) for value in VALUES])


def test_slabs_do_not_change_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = count_profiles(mask_of(1), VALUES)
    monkeypatch.setattr("unet_batch.evaluation.placement._SLAB_VOXELS", 70)
    for ours, theirs in zip(
        count_profiles(mask_of(1), VALUES).per_axis, whole.per_axis, strict=True
    ):
        assert_array_equal(ours, theirs)


def test_a_placement_says_where_the_centre_is_and_what_touches_the_border() -> None:
    mask = np.zeros((4, 6, 8), np.uint8)
    mask[0:3, 2:5, 4:8] = 1
    one, other = placements_of(count_profiles(mask, VALUES))
    assert (one.num_voxels, one.centre_zyx) == (36, (1.0, 3.0, 5.5))
    assert one.contacts == (12, 0, 0, 0, 0, 9)
    assert (other.num_voxels, other.centre_zyx) == (0, None)


def test_a_single_slice_is_not_cut_off_above_and_below() -> None:
    (one, _) = placements_of(count_profiles(np.ones((1, 3, 3), np.uint8), VALUES))
    assert one.contacts == (0, 0, 3, 3, 3, 3)
