from __future__ import annotations

import warnings
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from nibabel.orientations import io_orientation

from unet_batch.tiling.box import Box
from unet_batch.tiling.grid_map import AxisMap, AxisTurn, GridMap, closest_sides, turns_to

CODES = ["".join(order) for pair in product("LR", "PA", "IS") for order in permutations(pair)]

spacings = st.floats(0.3, 6.0).map(lambda mm: round(mm, 2))


@st.composite
def axis_maps(draw: st.DrawFn) -> AxisMap:
    turn = AxisTurn(0, is_flipped=draw(st.booleans()))
    wanted = draw(st.one_of(st.none(), spacings))
    return AxisMap.of(turn, draw(st.integers(1, 60)), draw(spacings), wanted)


@st.composite
def rotations(draw: st.DrawFn) -> np.ndarray:
    """An orthogonal matrix: any signed permutation, then turned by small angles."""
    signed = np.eye(3)[list(draw(st.permutations(range(3))))] * draw(
        st.tuples(*[st.sampled_from([-1, 1])] * 3)
    )
    for axis in range(3):
        angle = draw(st.floats(-0.25, 0.25))
        turn = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle),
        )  # fmt: skip
        signed = turn @ signed
    return signed


def affine_of(rotation: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing)
    affine[:3, 3] = (-17.5, 40.25, 3.0)
    return affine


def reversed_code(code: str) -> str:
    """MONAI names the axes in the array's order (z, y, x), people x first."""
    return code[::-1]


@given(rotations(), st.tuples(spacings, spacings, spacings), st.sampled_from(CODES))
def test_turns_shape_and_affine_are_monais(
    rotation: np.ndarray, wanted: tuple[float, ...], code: str
) -> None:
    shape, spacing = (7, 12, 9), (3.3, 0.7, 1.25)
    affine = affine_of(rotation, spacing)
    grid = GridMap.of(shape, spacing, wanted_mm=wanted, turns=turns_to(code, affine))
    exact = [(axis.scan_size - 1) / axis.step for axis in grid.axes]
    assume(all(abs(n % 1 - 0.5) > 1e-6 for n in exact))  # which way a tie rounds is noise there
    image = MetaTensor(np.zeros((1, *shape), np.float32), affine=affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI on its own deprecations
        theirs = Spacing(wanted)(Orientation(reversed_code(code))(image))
    assert tuple(theirs.shape[1:]) == grid.model_shape
    np.testing.assert_allclose(affine @ matrix_of(grid), theirs.affine, atol=1e-6)


def matrix_of(grid: GridMap) -> np.ndarray:
    """4x4: model index (z, y, x, 1) to scan index."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for number, axis in enumerate(grid.axes):
        matrix[axis.scan_axis, number] = -axis.step if axis.is_flipped else axis.step
        matrix[axis.scan_axis, 3] = axis.scan_size - 1 if axis.is_flipped else 0
    return matrix


@given(rotations())
def test_the_closest_sides_are_nibabels(rotation: np.ndarray) -> None:
    affine = affine_of(rotation, (3.3, 0.7, 1.25))
    ours = [(patient, 1.0 if grows else -1.0) for patient, grows in closest_sides(affine)]
    np.testing.assert_array_equal(ours, io_orientation(affine))


@given(axis_maps(), st.lists(st.integers(0, 200), max_size=5))
def test_model_intervals_complete_every_scan_voxel_once(axis: AxisMap, cuts: list[int]) -> None:
    points = sorted({0, axis.model_size, *(min(cut, axis.model_size) for cut in cuts)})
    seen = np.zeros(axis.scan_size, int)
    for start, stop in pairwise(points):
        first, last = axis.completed(start, stop)
        seen[first:last] += 1
        low, high = axis.to_scan(first, last).interval
        assert high <= stop
        assert first == last or low >= start - axis.is_interpolated
    assert (seen == 1).all()


@given(axis_maps(), st.integers(0, 59), st.integers(1, 60))
def test_taps_of_a_region_are_those_of_the_whole(axis: AxisMap, start: int, length: int) -> None:
    for taps_of, size in (
        (axis.to_scan, axis.scan_size), (axis.to_model, axis.model_size),
    ):  # fmt: skip
        first = min(start, size - 1)
        stop = min(first + length, size)
        for ours, whole in zip(taps_of(first, stop), taps_of(0, size), strict=True):
            np.testing.assert_array_equal(ours, whole[first:stop])


@given(axis_maps())
def test_taps_lie_at_the_voxel_centres_positions(axis: AxisMap) -> None:
    """Model voxel m lies at scan index `step * m`, counted from the end where flipped."""
    below, above, weight = axis.to_model(0, axis.model_size)
    expected = np.minimum(np.arange(axis.model_size) * axis.step, axis.scan_size - 1)
    if axis.is_flipped:
        expected = axis.scan_size - 1 - expected
    np.testing.assert_allclose(below + weight * (above - below), expected, atol=2e-5)
    below, above, weight = axis.to_scan(0, axis.scan_size)
    index = np.arange(axis.scan_size)
    expected = (axis.scan_size - 1 - index if axis.is_flipped else index) / axis.step
    ours = below + weight * (above - below)
    np.testing.assert_allclose(ours, np.minimum(expected, axis.model_size - 1), atol=2e-5)


def test_boxes_go_from_grid_to_grid_with_their_axes() -> None:
    affine = affine_of(np.eye(3)[:, [1, 2, 0]], (2.0, 1.0, 1.0))  # z to A, y to S, x to R
    grid = GridMap.of(
        (10, 20, 30), (2.0, 1.0, 1.0), wanted_mm=(1.0, 1.0, 3.0), turns=turns_to("LPS", affine)
    )
    assert grid.scan_axes == (1, 0, 2)
    assert [axis.is_flipped for axis in grid.axes] == [False, True, True]
    assert grid.model_shape == (20, 19, 11)
    assert grid.completed(Box.from_shape(grid.model_shape)) == Box.from_shape((10, 20, 30))
    model = Box((3, 0, 2), (5, 4, 4))
    assert grid.scan_box(model) == Box((7, 3, 20), (10, 5, 24))
    assert grid.model_box(Box((7, 3, 20), (10, 5, 24))) == Box((3, 0, 2), (5, 5, 4))


@pytest.mark.parametrize("wanted", [None, (1.0, None, 2.0005)])
def test_a_grid_that_is_wanted_as_it_is_is_kept(wanted: tuple[float | None, ...] | None) -> None:
    grid = GridMap.of((5, 6, 1), (1.0, 0.5, 2.0), wanted_mm=wanted)
    assert grid.is_identity
    assert grid.model_shape == (5, 6, 1)
