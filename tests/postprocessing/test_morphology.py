"""Opening and closing are those of the whole volume, surrounded by background."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from unet_batch.postprocessing.morphology import dilate, erode
from unet_batch.postprocessing.regions import structure_for

seeds = st.integers(0, 2**31)
connectivities = st.sampled_from([1, 2, 3])
iterations = st.integers(1, 3)


def by_scipy(operation: Any, mask: Any, connectivity: int, times: int) -> Any:
    """`operation` on the whole volume within background; an axis of one voxel is none."""
    flat = mask.squeeze()
    if not flat.ndim:
        return mask
    structure = ndimage.generate_binary_structure(flat.ndim, connectivity)
    done = operation(np.pad(flat, 2 * times), structure, iterations=times)
    return done[(slice(2 * times, -2 * times),) * flat.ndim].reshape(mask.shape)


@given(seed=seeds, connectivity=connectivities, times=iterations)
def test_opening_is_that_of_scipy(
    run_steps: Any, make_labels: Any, seed: int, connectivity: int, times: int
) -> None:
    labels, region = make_labels(seed)
    expected = labels.copy()
    for value in (2, 1, 300):
        mask = labels == value
        expected[mask & ~by_scipy(ndimage.binary_opening, mask, connectivity, times)] = 0
    step = {"step": "opening", "connectivity": connectivity, "iterations": times}
    np.testing.assert_array_equal(run_steps(labels, step, region=region), expected)


@given(seed=seeds, connectivity=connectivities, times=iterations)
def test_closing_is_that_of_scipy(
    run_steps: Any, make_labels: Any, seed: int, connectivity: int, times: int
) -> None:
    labels, region = make_labels(seed)
    expected = labels.copy()
    for value in (2, 1, 300):
        closed = by_scipy(ndimage.binary_closing, labels == value, connectivity, times)
        expected[closed & (expected == 0)] = value
    step = {"step": "closing", "connectivity": connectivity, "iterations": times}
    np.testing.assert_array_equal(run_steps(labels, step, region=region), expected)


def most_around(labels: Any, place: Any, times: int) -> int:
    """The value that most voxels within `times` steps over faces have; the smallest of level."""
    away = np.abs(np.indices(labels.shape) - place[:, None, None, None]).sum(axis=0)
    near = labels[away <= times]
    return max([1, 2, 300], key=lambda value: int((near == value).sum()))


@given(seed=seeds, times=iterations)
def test_what_closes_several_classes_gets_the_one_around_it(
    run_steps: Any, make_labels: Any, seed: int, times: int
) -> None:
    labels, region = make_labels(seed)
    closed = by_scipy(ndimage.binary_closing, labels > 0, 1, times)
    expected = labels.copy()
    for place in np.argwhere(closed & (labels == 0)):
        expected[tuple(place)] = most_around(labels, place, times)
    step = {"step": "closing", "together": True, "iterations": times}
    np.testing.assert_array_equal(run_steps(labels, step, region=region), expected)


@pytest.mark.parametrize("step", ["opening", "closing"])
def test_the_random_labels_are_changed(run_steps: Any, make_labels: Any, step: str) -> None:
    changed = 0
    for seed in range(40):
        labels, region = make_labels(seed)
        changed += int((run_steps(labels, {"step": step}, region=region) != labels).sum())
    assert changed > 100


def test_closing_takes_nothing_at_the_border(run_steps: Any) -> None:
    labels = np.full((4, 4, 4), 2, np.uint16)
    got = run_steps(labels, {"step": "closing", "iterations": 2}, region=(3, 3, 3))
    assert (got == labels).all()


@pytest.mark.parametrize("connectivity", [1, 2, 3])
def test_every_erosion_knows_a_voxel_less_on_each_side(connectivity: int) -> None:
    voxels = np.random.default_rng(0).random((6, 7, 8)) < 0.6
    structure = structure_for(connectivity, voxels.shape)
    inner = (slice(1, -1),) * 3
    eroded = ndimage.binary_erosion(voxels, structure)
    assert (erode(voxels, structure) == eroded[inner]).all()
    assert (dilate(voxels, structure) == ndimage.binary_dilation(voxels, structure)[inner]).all()
