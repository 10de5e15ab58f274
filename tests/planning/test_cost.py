from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.errors import MemoryBudgetError
from unet_batch.planning.cost import ModelCost, choose_layout, footprint
from unet_batch.tiling.grid import TileGrid

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
)
def test_what_is_chosen_fits_and_what_is_refused_says_so(
    shape: tuple[int, int, int], classes: int, budget_mib: int
) -> None:
    model = ModelCost(1, classes, 10**6, 10**7)
    budget = budget_mib * 2**20
    try:
        layout = choose_layout(grid(*shape), model, itemsize=2, memory_budget=budget)
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
