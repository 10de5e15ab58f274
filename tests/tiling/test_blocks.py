from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_batch.tiling.blocks import Block, BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid, indices
from unet_batch.tiling.grid_map import AxisTurn, GridMap


@st.composite
def layouts(draw: st.DrawFn) -> BlockLayout:
    dims = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 14)) for _ in range(dims))
    roi = tuple(draw(st.integers(2, 7)) for _ in range(dims))
    grid = TileGrid.of(shape, roi, draw(st.sampled_from([0, 0.25, 0.5, 0.7])))
    groups = tuple(
        tuple(sorted({0, *draw(st.lists(st.integers(0, count - 1), max_size=2))}))
        for count in grid.counts
    )
    recomputed = tuple(
        tuple(first for first in starts if first and draw(st.booleans())) for starts in groups
    )
    axis, layers = draw(st.integers(0, dims - 1)), draw(st.integers(1, 4))
    return BlockLayout(grid, axis, groups, layers, recomputed)


def all_blocks(layout: BlockLayout) -> list[Block]:
    return [block for k in range(len(layout.sweeps)) for block in layout.blocks(k)]


@given(layouts())
def test_every_tile_is_in_a_block_and_more_than_once_only_where_it_is_recomputed(
    layout: BlockLayout,
) -> None:
    counts = Counter(index for block in all_blocks(layout) for index in indices(block.tiles))
    assert len(counts) == layout.grid.num_tiles
    assert counts.total() == layout.num_tiles
    assert any(layout.recomputed) or set(counts.values()) == {1}
    assert len(all_blocks(layout)) == layout.num_blocks


@given(layouts())
@settings(max_examples=50)
def test_the_contributors_of_a_voxel_predict_each_of_its_tiles_once(layout: BlockLayout) -> None:
    grid, whole = layout.grid, Box.from_shape(layout.grid.shape)
    expected, found = np.zeros(grid.shape, int), np.zeros(grid.shape, int)
    for index in indices(Box.from_shape(grid.counts)):
        expected[(grid.tile(index) & whole).slices] += 1
    for tiles, extent in zip(layout.sweeps, layout.extents, strict=True):
        for index in indices(tiles):
            found[(grid.tile(index) & extent).slices] += 1
    np.testing.assert_array_equal(found, expected)


@given(layouts())
def test_nothing_crosses_a_recomputed_cut(layout: BlockLayout) -> None:
    for axis, cuts in enumerate(layout.recomputed):
        for cut in cuts:
            voxel = layout.grid.starts[axis][cut]
            for extent in layout.extents:
                assert extent.stop[axis] <= voxel or extent.start[axis] >= voxel


@given(layouts())
def test_each_contributor_hands_out_each_cell_once_and_cells_cover_the_volume(
    layout: BlockLayout,
) -> None:
    emitted = Counter((cell, b.sweep) for b in all_blocks(layout) for cell in layout.cells(b))
    assert set(emitted.values()) == {1}
    cover = np.zeros(layout.grid.shape, int)
    for cell in {cell for cell, _ in emitted}:
        assert {sweep for other, sweep in emitted if other == cell} == set(cell.sweeps)
        cover[cell.box.slices] += 1
    assert (cover == 1).all()


@given(layouts())
@settings(max_examples=50)
def test_a_cell_names_exactly_the_sweeps_with_a_tile_on_it(layout: BlockLayout) -> None:
    grid, whole = layout.grid, Box.from_shape(layout.grid.shape)
    touched = {number: np.zeros(grid.shape, bool) for number in range(len(layout.sweeps))}
    for number, (tiles, extent) in enumerate(zip(layout.sweeps, layout.extents, strict=True)):
        for index in indices(tiles):
            touched[number][(grid.tile(index) & whole & extent).slices] = True
    for block in all_blocks(layout):
        for cell in layout.cells(block):
            for number, mask in touched.items():
                assert mask[cell.box.slices].all() == (number in cell.sweeps)
                assert mask[cell.box.slices].any() == (number in cell.sweeps)


@given(layouts())
def test_later_tiles_do_not_reach_what_a_block_finished(layout: BlockLayout) -> None:
    for number in range(len(layout.sweeps)):
        blocks = layout.blocks(number)
        for k, block in enumerate(blocks):
            for later in blocks[k + 1 :]:
                assert not layout.finished_region(block) & layout.grid.extent(later.tiles)


@given(layouts())
def test_rebuilding_predicts_every_earlier_tile_that_reaches_the_block(
    layout: BlockLayout,
) -> None:
    for block in all_blocks(layout):
        region, sweep = layout.finished_region(block), layout.sweeps[block.sweep]
        reaching = {
            index
            for index in indices(sweep)
            if index[layout.axis] < block.tiles.start[layout.axis]
            and layout.grid.tile(index) & region
        }
        rebuilt = set(indices(layout.rebuild_tiles(block)))
        assert reaching <= rebuilt
        assert {one[layout.axis] for one in rebuilt} == {one[layout.axis] for one in reaching}
        assert layout.input_box(block, rebuild=True).holds(layout.input_box(block))


def test_the_whole_layout_is_one_block_of_one_cell() -> None:
    layout = BlockLayout.whole(TileGrid.of((30, 20), (8, 8), 0.5))
    (block,) = layout.blocks(0)
    assert [cell.box for cell in layout.cells(block)] == [Box((0, 0), (30, 20))]


@st.composite
def resampled_layouts(draw: st.DrawFn) -> tuple[BlockLayout, GridMap]:
    axes, flips = draw(st.permutations(range(3))), draw(st.tuples(*[st.booleans()] * 3))
    wanted = draw(st.tuples(*[st.sampled_from([None, 0.4, 0.75, 1.3, 2.7])] * 3))
    grid_map = GridMap.of(
        draw(st.tuples(*[st.integers(1, 12)] * 3)),
        (1.0, 1.0, 1.0),
        wanted_mm=wanted,
        turns=[AxisTurn(axis, flip) for axis, flip in zip(axes, flips, strict=True)],
    )
    roi = draw(st.tuples(*[st.integers(2, 6)] * 3))
    grid = TileGrid.of(grid_map.model_shape, roi, draw(st.sampled_from([0, 0.25, 0.5])))
    groups = tuple(
        tuple(sorted({0, *draw(st.lists(st.integers(0, count - 1), max_size=2))}))
        for count in grid.counts
    )
    cuts = tuple(starts[1:] for starts in groups)
    axis, layers = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    return BlockLayout(grid, axis, groups, layers, cuts, grid_map), grid_map


@given(resampled_layouts())
def test_on_another_grid_every_scan_voxel_is_finished_once(
    case: tuple[BlockLayout, GridMap],
) -> None:
    layout, grid_map = case
    cover = np.zeros([grid_map.axes[axis].scan_size for axis in grid_map.model_axes], int)
    for block in all_blocks(layout):
        for cell in layout.cells(block):
            assert not cell.is_seam
            cover[cell.box.slices] += 1
    assert (cover == 1).all()


@given(resampled_layouts())
@settings(max_examples=60)
def test_on_another_grid_a_sweep_holds_all_planes_that_a_cell_is_interpolated_from(
    case: tuple[BlockLayout, GridMap],
) -> None:
    """Every tile on those planes is its own, lands before, and reads the voxels fetched."""
    layout, grid_map = case
    grid, axis, whole = layout.grid, layout.axis, Box.from_shape(layout.grid.counts)
    for block in all_blocks(layout):
        landed = {
            index
            for earlier in layout.blocks(block.sweep)[: block.number + 1]
            for index in indices(earlier.tiles)
        }
        again = {*indices(layout.rebuild_tiles(block)), *indices(block.tiles)}
        for cell in layout.cells(block):
            needed = grid_map.model_box(cell.box)
            assert layout.extents[block.sweep].holds(needed)
            first = layout.finished_region(block).start[axis]
            assert needed.start[axis] >= first - layout.planes_kept
            on_them = {index for index in indices(whole) if grid.tile(index) & needed}
            assert on_them <= landed
            assert on_them <= again or block.number == 0
        read = layout.read_box(block, rebuild=True)
        assert grid_map.scan_box(layout.input_box(block, rebuild=True)) == read


def test_what_was_worked_out_does_not_travel_with_a_layout() -> None:
    grid = TileGrid.of((200, 60, 60), (16, 16, 16), 0.5)
    layout = BlockLayout(grid, 0, ((0, 8), (0,), (0,)), 2)
    small = len(pickle.dumps(layout))
    for sweep in range(len(layout.sweeps)):
        for block in layout.blocks(sweep):
            assert layout.cells(block) is layout.cells(block)  # asked for at every event
    content = pickle.dumps(layout)
    assert len(content) == small
    assert pickle.loads(content) == layout
    assert pickle.loads(content) is pickle.loads(content)  # worked out once in each process


def test_sums_travel_at_cuts_that_are_not_recomputed() -> None:
    grid = TileGrid.of((64, 16, 16), (16, 16, 16), 0.5)
    cut = ((0, 3), (0,), (0,))
    assert not BlockLayout.whole(grid).has_seams
    assert BlockLayout(grid, 0, cut, 2).has_seams
    assert not BlockLayout(grid, 0, cut, 2, ((3,), (), ())).has_seams
