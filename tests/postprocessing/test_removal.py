"""Components are removed as on the whole volume, wherever the regions' borders lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from unet_batch.postprocessing.removal import Components, count_voxels, largest

Mask = NDArray[np.bool_]

seeds = st.integers(0, 2**31)
connectivities = st.sampled_from([1, 2, 3])
groups = st.sampled_from([((2,), (1,), (300,)), ((2, 1, 300),)])


def components_kept(mask: Mask, connectivity: int, keep: Callable[[Any], Any]) -> Mask:
    """scipy on the whole volume: the components whose sizes `keep` says to keep."""
    found, number = ndimage.label(mask, ndimage.generate_binary_structure(3, connectivity))
    if not number:
        return mask
    sizes = np.bincount(found.ravel())[1:]
    return np.concatenate([[False], keep(sizes)])[found]


@given(seed=seeds, connectivity=connectivities, masks=groups)
def test_the_largest_component_is_that_of_scipy(
    run_steps: Any, make_labels: Any, seed: int, connectivity: int, masks: Any
) -> None:
    labels, region = make_labels(seed)
    expected = labels.copy()
    for values in masks:
        mask = np.isin(labels, values)
        first_of_largest = lambda sizes: np.arange(len(sizes)) == np.argmax(sizes)  # noqa: E731
        expected[mask & ~components_kept(mask, connectivity, first_of_largest)] = 0
    step = {"step": "largest_component", "connectivity": connectivity, "together": len(masks) == 1}
    np.testing.assert_array_equal(run_steps(labels, step, region=region), expected)


@given(seed=seeds, connectivity=connectivities, masks=groups, fewest=st.integers(1, 30))
def test_small_components_go_as_with_scipy(
    run_steps: Any, make_labels: Any, seed: int, connectivity: int, masks: Any, fewest: int
) -> None:
    labels, region = make_labels(seed)
    expected = labels.copy()
    for values in masks:
        mask = np.isin(labels, values)
        kept = components_kept(mask, connectivity, lambda sizes: sizes >= fewest)
        expected[mask & ~kept] = 0
    step = {"step": "remove_small", "connectivity": connectivity, "together": len(masks) == 1}
    got = run_steps(labels, step | {"min_voxels": fewest}, region=region)
    np.testing.assert_array_equal(got, expected)


def test_a_size_in_cubic_millimetres_counts_the_voxels_volume(run_steps: Any) -> None:
    labels = np.zeros((1, 1, 9), np.uint16)
    labels[0, 0, [0, 1, 2, 5, 6, 8]] = 2  # runs of three, two and one voxels of 0.75 mm³
    step = {"step": "remove_small", "min_mm3": 1.5}
    got = run_steps(labels, step, region=(1, 1, 2), voxel_mm3=0.75)
    assert got[0, 0].tolist() == [2, 2, 2, 0, 0, 2, 2, 0, 0]


def test_a_component_may_wind_through_many_regions(run_steps: Any) -> None:
    labels = np.zeros((1, 9, 9), np.uint16)
    labels[0, ::2] = 2
    labels[0, 1::4, 8] = labels[0, 3::4, 0] = 2  # one snake, as rows of 9 voxels
    assert (run_steps(labels, {"step": "largest_component"}, region=(1, 2, 2)) == labels).all()
    cut = labels.copy()
    cut[0, 5, 8] = 0  # 29 voxels, then 19
    kept = run_steps(cut, {"step": "largest_component"}, region=(1, 2, 2))
    assert kept[0, :5].any(axis=1).all()
    assert not kept[0, 5:].any()


def test_corners_where_eight_regions_meet_join_components(run_steps: Any) -> None:
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[1, 1, 2] = labels[2, 2, 1] = 1
    joined = {"step": "remove_small", "min_voxels": 2, "connectivity": 3}
    assert (run_steps(labels, joined, region=(2, 2, 2)) == labels).all()
    assert not run_steps(labels, joined | {"connectivity": 2}, region=(2, 2, 2)).any()


def test_classes_that_are_not_named_stay(run_steps: Any) -> None:
    labels = np.zeros((1, 1, 8), np.uint16)
    labels[0, 0] = [1, 0, 1, 1, 0, 2, 0, 2]
    got = run_steps(labels, {"step": "largest_component", "classes": ["tumour"]}, region=(1, 1, 3))
    assert got[0, 0].tolist() == [0, 0, 1, 1, 0, 2, 0, 2]


def test_of_equally_large_components_the_first_stays() -> None:
    found = Components(np.array([1, 1, 2]), np.array([4, 4, 1]), np.array([70, 3, 9]))
    assert largest(found).tolist() == [False, True, True]


def test_voxels_are_counted_in_parts(monkeypatch: Any) -> None:
    monkeypatch.setattr("unet_batch.postprocessing.removal.PART_VOXELS", 7)
    numbers = np.random.default_rng(0).integers(0, 5, (3, 5, 9)).astype(np.int32)
    assert count_voxels(numbers, 6).tolist() == np.bincount(numbers.ravel(), minlength=7).tolist()
