"""Holes are filled as on the whole volume, with background only."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

FILL = {"step": "fill_holes"}


def holes_of(mask: Any, connectivity: int) -> Any:
    """scipy on the whole volume; an axis of one voxel is none."""
    flat = mask.squeeze()
    if not flat.ndim:
        return np.zeros_like(mask)
    structure = ndimage.generate_binary_structure(flat.ndim, connectivity)
    return ndimage.binary_fill_holes(flat, structure).reshape(mask.shape) & ~mask


@given(seed=st.integers(0, 2**31), connectivity=st.sampled_from([1, 2, 3]))
def test_holes_of_every_class_are_those_of_scipy(
    run_steps: Any, make_labels: Any, seed: int, connectivity: int
) -> None:
    labels, region = make_labels(seed)
    expected = labels.copy()
    for value in (2, 1, 300):
        expected[holes_of(labels == value, connectivity) & (expected == 0)] = value
    got = run_steps(labels, FILL | {"connectivity": connectivity}, region=region)
    np.testing.assert_array_equal(got, expected)


def most_touched(labels: Any, hole: Any) -> int:
    """The value that most faces of a hole touch; the smallest of level ones."""
    padded = np.pad(labels, 1)
    votes = dict.fromkeys([1, 2, 300], 0)
    for place in np.argwhere(hole) + 1:
        for offset in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)]):
            value = int(padded[tuple(place + offset)])
            if value:
                votes[value] += 1
    return max(sorted(votes), key=votes.__getitem__)


@given(seed=st.integers(0, 2**31))
def test_a_hole_in_several_classes_gets_the_one_it_touches_most(
    run_steps: Any, make_labels: Any, seed: int
) -> None:
    labels, region = make_labels(seed)
    found, number = ndimage.label(holes_of(labels > 0, 1))
    expected = labels.copy()
    for one in range(1, number + 1):
        expected[found == one] = most_touched(labels, found == one)
    got = run_steps(labels, FILL | {"together": True}, region=region)
    np.testing.assert_array_equal(got, expected)


def test_the_random_labels_do_have_holes(run_steps: Any, make_labels: Any) -> None:
    filled = 0
    for seed in range(40):
        labels, region = make_labels(seed)
        filled += int((run_steps(labels, FILL, region=region) != labels).sum())
    assert filled > 100


def shell(value: int, radius: int, size: int = 9) -> Any:
    labels = np.zeros((size, size, size), np.uint16)
    inner, outer = size // 2 - radius, size // 2 + radius + 1
    labels[inner:outer, inner:outer, inner:outer] = value
    labels[inner + 1 : outer - 1, inner + 1 : outer - 1, inner + 1 : outer - 1] = 0
    return labels


def test_another_class_in_a_hole_stays(run_steps: Any) -> None:
    labels = shell(2, 3)
    labels[4, 4, 4] = 1
    got = run_steps(labels, FILL, region=(4, 4, 4))
    assert (got[4, 4, 4], (got == 2).sum()) == (1, 7**3 - 1)


def test_a_hole_of_two_classes_goes_to_the_one_named_first(run_steps: Any) -> None:
    labels = shell(2, 4) + shell(1, 2)
    liver_first = run_steps(labels, FILL | {"classes": ["liver", "tumour"]}, region=(4, 5, 3))
    tumour_first = run_steps(labels, FILL | {"classes": ["tumour", "liver"]}, region=(4, 5, 3))
    assert (liver_first[4, 4, 4], tumour_first[4, 4, 4]) == (2, 1)
    assert liver_first[4, 4, 1] == tumour_first[4, 4, 1] == 2


def test_what_is_open_at_the_volumes_border_is_no_hole(run_steps: Any) -> None:
    labels = shell(2, 3)
    labels[4, 4, :4] = 0  # a channel to the outside
    assert (run_steps(labels, FILL, region=(2, 9, 4)) == labels).all()
