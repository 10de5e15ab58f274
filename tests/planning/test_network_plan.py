from __future__ import annotations

from math import prod

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unet_batch.errors import MemoryBudgetError
from unet_batch.planning.network_memory import training_bytes
from unet_batch.planning.network_plan import MIN_EDGE, NetworkPlan, Scans, halvings, plan_network

GIB = 2**30
SPACINGS = st.floats(0.2, 8.0)


def scans(shape: tuple[int, ...], spacing: tuple[float, ...], number: int = 100) -> Scans:
    """`number` Volumes of one shape; of 2-D ones each has 30 slices."""
    slices = 30 if len(shape) == 2 else 1
    return Scans((shape,) * number, spacing, prod(shape) * slices * number)


def plan(seen: Scans, *, budget: int = 8 * GIB, **given: object) -> NetworkPlan:
    arguments: dict[str, object] = {"in_channels": 1, "num_classes": 3, "itemsize": 2}
    return plan_network(seen, memory_budget=budget, **(arguments | given))  # type: ignore[arg-type]


@st.composite
def any_scans(draw: st.DrawFn) -> Scans:
    dims = draw(st.sampled_from([2, 3]))
    shape = tuple(draw(st.integers(1, 600)) for _ in range(dims))
    spacing = tuple(draw(SPACINGS) for _ in range(dims))
    return scans(shape, spacing, draw(st.integers(1, 500)))


@given(seen=any_scans(), mib=st.integers(900, 16_000), itemsize=st.sampled_from([2, 4]))
def test_a_plan_is_divisible_and_within_the_budget(seen: Scans, mib: int, itemsize: int) -> None:
    try:
        made = plan(seen, budget=mib * 2**20, itemsize=itemsize)
    except MemoryBudgetError:
        assume(False)
    divisor = [prod(axis) for axis in zip(*made.shape.strides, strict=True)]
    assert all(n % d == 0 for n, d in zip(made.roi, divisor, strict=True))
    assert made.batch_size >= 2
    needed = training_bytes(made.shape, made.roi, batch_size=made.batch_size, itemsize=itemsize)
    assert needed <= mib * 2**20


@given(seen=any_scans())
def test_a_tile_is_no_larger_than_the_median_scan_needs(seen: Scans) -> None:
    made = plan(seen, budget=64 * GIB)
    divisor = [prod(axis) for axis in zip(*made.shape.strides, strict=True)]
    for size, most, step in zip(made.roi, seen.median_shape, divisor, strict=True):
        assert size < most + step


@given(tile=st.tuples(*[st.integers(1, 600)] * 3), spacing=st.tuples(*[SPACINGS] * 3))
def test_an_axis_is_halved_to_four_voxels_and_not_while_it_is_twice_as_coarse(
    tile: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    sizes, current = [float(n) for n in tile], list(spacing)
    for step, kernel in zip(
        halvings(tile, spacing).strides, halvings(tile, spacing).kernels, strict=False
    ):
        long = [axis for axis, size in enumerate(sizes) if size >= 2 * MIN_EDGE]
        for axis in range(3):
            if step[axis] == 2:
                assert sizes[axis] >= 2 * MIN_EDGE
                assert current[axis] < 2 * min(current[a] for a in long)
            if kernel[axis] == 1:
                assert current[axis] >= 2 * min(current)
        sizes = [-(-n // s) for n, s in zip(sizes, step, strict=True)]
        current = [one * s for one, s in zip(current, step, strict=True)]


@given(seen=any_scans(), mib=st.integers(1000, 8000))
def test_more_memory_never_makes_a_smaller_tile(seen: Scans, mib: int) -> None:
    try:
        less = plan(seen, budget=mib * 2**20)
    except MemoryBudgetError:
        assume(False)
    more = plan(seen, budget=2 * mib * 2**20)
    assert prod(more.roi) >= prod(less.roi)


def test_channels_double_to_320_in_3d_and_512_in_2d() -> None:
    assert plan(scans((256, 256, 256), (1, 1, 1))).shape.filters == (32, 64, 128, 256, 320, 320)
    assert plan(scans((512, 512), (1, 1))).shape.filters == (32, 64, 128, 256, 512, 512, 512, 512)


def test_thick_slices_are_halved_once_the_others_have_caught_up() -> None:
    """A spleen CT: 5 mm slices of 0.8 mm voxels."""
    made = plan(scans((90, 512, 512), (5.0, 0.79, 0.79), 41))
    assert made.shape.strides[:3] == ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert made.shape.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    assert made.roi[0] < made.roi[1] / 3


def test_the_hippocampus_gets_its_median_as_a_tile() -> None:
    """nnU-Net's own plan of that task has this patch, too."""
    made = plan(scans((36, 50, 35), (1, 1, 1), 208))
    assert made.roi == (40, 56, 40)
    assert made.batch_size == round(0.05 * 208 * 36 * 50 * 35 / prod(made.roi))


def test_a_lone_small_patient_still_gets_two_patches_a_step() -> None:
    made = plan(scans((181, 217, 181), (1, 1, 1), 1), in_channels=4)
    assert made.batch_size == 2
    assert "the smallest" in made.reasons[2]


def test_what_the_spec_gives_is_taken() -> None:
    made = plan(scans((181, 217, 181), (1, 1, 1)), roi=(64, 64, 32), batch_size=5)
    assert (made.roi, made.batch_size) == ((64, 64, 32), 5)
    assert made.reasons[0].startswith("tile 64x64x32: as the Spec says")
    assert made.reasons[2] == "batch 5: as the Spec says"


def test_a_given_tile_needs_room_for_two_only() -> None:
    made = plan(scans((512, 512), (1, 1)), roi=(512, 512), budget=4 * GIB)
    assert 2 <= made.batch_size < 12


def test_a_larger_batch_makes_a_smaller_tile() -> None:
    seen = scans((181, 217, 181), (1, 1, 1))
    assert prod(plan(seen, batch_size=8).roi) < prod(plan(seen).roi)


def test_too_little_memory_is_refused_with_numbers() -> None:
    with pytest.raises(MemoryBudgetError, match=r"takes about 0\.\d\d GiB; .* is 0\.01 GiB"):
        plan(scans((64, 64, 64), (1, 1, 1)), budget=2**23)


def test_reasons_say_what_was_seen_and_what_was_done() -> None:
    tile, depth, batch, memory = plan(scans((90, 512, 512), (5.0, 0.79, 0.79), 41)).reasons
    assert "41 Volumes, their median 90x512x512 voxels of 5x0.79x0.79 mm" in tile
    assert "shrunk from 80x512x512" in tile
    assert "32-64-128-256-320-320" in depth
    assert batch.endswith("what the memory has room for")
    assert "of network.memory_budget 8.00 GiB" in memory


def test_the_median_is_over_all_shapes() -> None:
    assert Scans(((10, 3), (20, 5), (90, 4)), (1, 1), 1).median_shape == (20, 4)
