from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.errors import MemoryBudgetError
from unet_batch.planning.cost import (
    CPU_PACE,
    GPU_PACE,
    Cuts,
    ModelCost,
    Pace,
    choose_layout,
    footprint,
)
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.grid import TileGrid
from unet_batch.tiling.grid_map import AxisTurn, GridMap

MODEL = ModelCost(num_channels=1, num_classes=14, weight_bytes=10**6, forward_bytes=10**7)


def grid(*shape: int, roi: int = 96) -> TileGrid:
    return TileGrid.of(shape, (roi,) * 3, 0.5)


def test_a_clinical_ct_is_one_block_within_a_generous_budget() -> None:
    layout = choose_layout(grid(300, 512, 512), MODEL, itemsize=2, memory_budget=8 * 2**30)
    assert layout.num_blocks == 1


@given(
    st.tuples(*[st.integers(20, 600)] * 3),
    st.integers(2, 61),
    st.sampled_from([50, 200, 1000, 4000]),
    st.sampled_from(["auto", "travel", "recompute"]),
)
def test_what_is_chosen_fits_and_what_is_refused_says_so(
    shape: tuple[int, int, int], classes: int, budget_mib: int, cuts: Cuts
) -> None:
    model = ModelCost(1, classes, 10**6, 10**7)
    budget = budget_mib * 2**20
    try:
        layout = choose_layout(grid(*shape), model, itemsize=2, memory_budget=budget, cuts=cuts)
    except MemoryBudgetError as error:
        assert f"{budget_mib} MiB" in str(error)  # noqa: PT017 (either outcome is checked)
        return
    assert footprint(layout, model, 2).total <= budget


def test_a_larger_volume_needs_no_more_memory_along_its_longest_axis() -> None:
    budget = 600 * 2**20
    short, long = (
        choose_layout(grid(depth, 256, 256), MODEL, itemsize=2, memory_budget=budget)
        for depth in (512, 8192)
    )
    assert footprint(long, MODEL, 2).total <= budget
    assert footprint(short, MODEL, 2).total <= budget
    assert len(long.sweeps) == 1


def test_the_sweep_runs_along_the_longest_axis() -> None:
    layout = choose_layout(grid(256, 256, 1024), MODEL, itemsize=2, memory_budget=2**30)
    assert layout.axis == 2


def test_one_volume_is_cut_along_the_sweep_to_share_it_out() -> None:
    layout = choose_layout(
        grid(512, 256, 256), MODEL, itemsize=2, memory_budget=4 * 2**30, min_sweeps=3
    )
    assert len(layout.sweeps) == 3
    assert layout.groups == ((0, 3, 6), (0,), (0,))


def test_a_refusal_names_what_weighs_how_much() -> None:
    with pytest.raises(MemoryBudgetError, match=r"61 classes.*slab.*10 MiB.*Raise it"):
        choose_layout(grid(300, 300, 300), ModelCost(1, 61), itemsize=2, memory_budget=10 * 2**20)


def shared(classes: int, *, pace: Pace = CPU_PACE, cuts: Cuts = "auto") -> BlockLayout:
    """A volume for two Replicas, whose network is the bench's residual U-Net."""
    model = ModelCost(1, classes, tile_flops=1.02e10)
    return choose_layout(
        grid(512, 512, 1024), model, itemsize=2, memory_budget=2**40, min_sweeps=2, cuts=cuts,
        pace=pace,
    )  # fmt: skip


def test_few_sums_travel_and_many_are_cheaper_recomputed() -> None:
    assert shared(2).recomputed == ((), (), ())
    assert shared(500).recomputed == ((), (), (10,))


def test_a_fast_device_recomputes_what_a_slow_one_sends() -> None:
    assert not any(shared(14).recomputed)
    assert any(shared(14, pace=GPU_PACE).recomputed)


def test_what_does_not_fit_where_sums_travel_is_recomputed() -> None:
    tiles, model = grid(300, 300, 300), ModelCost(1, 61, tile_flops=1e12)

    def chosen(budget_mib: int, cuts: Cuts) -> BlockLayout:
        budget = budget_mib * 2**20
        return choose_layout(tiles, model, itemsize=2, memory_budget=budget, cuts=cuts)

    with pytest.raises(MemoryBudgetError, match=r"needs at least .*or inference\.cuts=auto"):
        chosen(300, "travel")
    assert chosen(300, "auto") == chosen(300, "recompute")
    assert footprint(chosen(300, "auto"), model, 2).total <= 300 * 2**20
    assert chosen(1000, "auto") == chosen(1000, "travel")
    assert chosen(1000, "auto").has_seams


def test_recomputing_plans_the_tiles_across_the_cut_twice() -> None:
    layout = shared(2, cuts="recompute")
    assert layout.num_tiles == layout.grid.num_tiles + layout.grid.counts[0] ** 2
    assert shared(2, cuts="travel").num_tiles == layout.grid.num_tiles


def resampled(
    scan_mm: float, *, roi: int = 96, turned: bool = False, **changes: object
) -> BlockLayout:
    """Of a scan of 300 x 300 x 300 mm, for a network that wants 1.5 mm."""
    size = round(300 / scan_mm)
    turns = [AxisTurn(axis, is_flipped=False) for axis in ((2, 1, 0) if turned else (0, 1, 2))]
    mm = (scan_mm,) * 3
    grid_map = GridMap.of((size,) * 3, mm, wanted_mm=(1.5,) * 3, turns=turns)
    tiles = TileGrid.of(grid_map.model_shape, (roi,) * 3, 0.5)
    arguments: dict[str, object] = {"itemsize": 2, "memory_budget": 2**36} | changes
    return choose_layout(tiles, MODEL, grid_map=grid_map, **arguments)  # type: ignore[arg-type]


def test_another_grid_counts_voxels_of_both() -> None:
    coarse, fine = (footprint(resampled(mm), MODEL, 2) for mm in (1.5, 0.75))
    model_voxels, scan_voxels = 200**3, 400**3
    assert fine.voxels == pytest.approx((2 + 4) * scan_voxels + 4 * model_voxels, rel=0.02)
    turned = footprint(resampled(0.75, turned=True), MODEL, 2)
    assert turned.voxels == pytest.approx(fine.voxels + 4 * scan_voxels, rel=0.02)
    assert fine.slab == pytest.approx(coarse.slab * 97 / 96)
    assert fine.results >= 2 * scan_voxels


def test_another_grid_is_cut_to_the_budget_and_all_cuts_are_recomputed() -> None:
    budget = 150 * 2**20
    layout = resampled(0.75, roi=32, memory_budget=budget, cuts="travel", min_sweeps=2)
    assert footprint(layout, MODEL, 2).total <= budget
    assert len(layout.sweeps) > 1
    assert layout.recomputed == tuple(starts[1:] for starts in layout.groups)
    with pytest.raises(
        MemoryBudgetError, match=r"200x200x200 voxels \(resampled from 400x400x400\)"
    ):
        resampled(0.75, memory_budget=20 * 2**20)
