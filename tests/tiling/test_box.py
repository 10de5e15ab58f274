from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.tiling.box import Box, bounding_box

coordinates = st.tuples(st.integers(-5, 30), st.integers(-5, 30))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    start = draw(coordinates)
    size = draw(st.tuples(st.integers(0, 20), st.integers(0, 20)))
    return Box(start, (start[0] + size[0], start[1] + size[1]))


def painted(box: Box) -> np.ndarray:
    canvas = np.zeros((80, 80), int)
    canvas[box.shift((10, 10)).slices] = 1
    return canvas


@given(boxes(), boxes())
def test_intersection_holds_the_voxels_of_both(one: Box, other: Box) -> None:
    np.testing.assert_array_equal(painted(one & other), painted(one) & painted(other))


@given(boxes(), st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_split_covers_every_voxel_once_and_keeps_to_the_lattice(
    box: Box, shape: tuple[int, int]
) -> None:
    cells = list(box.split(shape))
    np.testing.assert_array_equal(sum(map(painted, cells), np.zeros((80, 80), int)), painted(box))
    for cell in cells:
        assert all(
            (b - 1) // n == a // n for a, b, n in zip(cell.start, cell.stop, shape, strict=True)
        )


@given(boxes(), boxes())
def test_a_bounding_box_holds_its_boxes(one: Box, other: Box) -> None:
    assert bounding_box([one, other]).holds(one)
    assert bounding_box([one, other]).holds(other)


def test_relative_to_moves_the_origin() -> None:
    assert Box((5, 6), (8, 9)).relative_to(Box((4, 4), (20, 20))) == Box((1, 2), (4, 5))
