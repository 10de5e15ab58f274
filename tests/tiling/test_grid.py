from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid, indices

axis = st.tuples(st.integers(1, 24), st.integers(3, 12))


def monai_tiles(shape: tuple[int, ...], roi: tuple[int, ...], overlap: float) -> list[Box]:
    padded = tuple(map(max, shape, roi))
    before = tuple((p - n) // 2 for p, n in zip(padded, shape, strict=True))
    interval = _get_scan_interval(padded, roi, len(shape), (overlap,) * len(shape))
    return [
        Box(tuple(s.start for s in tile), tuple(s.stop for s in tile)).shift(
            tuple(-b for b in before)
        )
        for tile in dense_patch_slices(padded, roi, interval)
    ]


@given(st.lists(axis, min_size=2, max_size=3), st.sampled_from([0, 0.1, 0.25, 0.5, 0.75, 0.99]))
def test_tiles_are_those_of_monai(axes: list[tuple[int, int]], overlap: float) -> None:
    shape, roi = tuple(n for n, _ in axes), tuple(r for _, r in axes)
    if overlap == 0.99:
        shape = tuple(min(n, r + 2) for n, r in axes)
    grid = TileGrid.of(shape, roi, overlap)
    tiles = [grid.tile(index) for index in indices(Box.from_shape(grid.counts))]
    assert tiles == monai_tiles(shape, roi, overlap)
    assert len(tiles) == grid.num_tiles


def test_a_small_volume_is_padded_on_both_sides() -> None:
    assert TileGrid.of((5, 40), (8, 16), 0.5).tile((0, 0)) == Box((-1, 0), (7, 16))


def test_indices_walk_the_outer_axis_slowest() -> None:
    assert list(indices(Box((0, 0), (2, 2)), outer=1)) == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_an_overlap_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        TileGrid.of((8, 8), (4, 4), 1.0)
