from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_batch.tiling.blocks import Block, BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid, indices


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
    return BlockLayout(grid, draw(st.integers(0, dims - 1)), groups, draw(st.integers(1, 4)))


def all_blocks(layout: BlockLayout) -> list[Block]:
    return [block for k in range(len(layout.sweeps)) for block in layout.blocks(k)]


@given(layouts())
def test_every_tile_belongs_to_one_block(layout: BlockLayout) -> None:
    counts = Counter(index for block in all_blocks(layout) for index in indices(block.tiles))
    assert set(counts.values()) == {1}
    assert len(counts) == layout.grid.num_tiles
    assert len(all_blocks(layout)) == layout.num_blocks


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
    for number, tiles in enumerate(layout.sweeps):
        for index in indices(tiles):
            touched[number][(grid.tile(index) & whole).slices] = True
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
        assert reaching <= set(indices(layout.rebuild_tiles(block)))
        assert layout.input_box(block) in layout.input_box(block, rebuild=True)


def test_the_whole_layout_is_one_block_of_one_cell() -> None:
    layout = BlockLayout.whole(TileGrid.of((30, 20), (8, 8), 0.5))
    (block,) = layout.blocks(0)
    assert [cell.box for cell in layout.cells(block)] == [Box((0, 0), (30, 20))]
