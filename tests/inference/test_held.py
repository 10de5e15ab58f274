"""References are held as long as they are needed, and no longer."""

from __future__ import annotations

from unet_batch.inference.held import HeldCells
from unet_batch.tiling.blocks import Cell
from unet_batch.tiling.box import Box

BOX = Box((0, 0, 0), (8, 8, 8))


def count(held: HeldCells) -> int:
    return sum(len(one.labels) + len(one.sums) for one in held._volumes.values())


def test_labels_are_let_go_with_the_last_region_that_needs_them() -> None:
    held = HeldCells()
    held.keep_labels("v", BOX, "ref", num_regions=2)
    held.let_go("v", BOX)
    assert held.labels("v", BOX) == "ref"
    held.let_go("v", BOX)
    held.let_go("v", BOX)  # told twice: no harm
    assert count(held) == 0


def test_sums_come_in_the_order_of_their_sweeps_and_go_when_taken() -> None:
    held = HeldCells()
    held.keep_sums("v", BOX, 4, "later")
    held.keep_sums("v", BOX, 1, "first")
    assert held.take_sums("v", Cell(BOX, (1, 4))) == ["first", "later"]
    assert count(held) == 0


def test_a_volume_that_is_through_holds_nothing() -> None:
    held = HeldCells()
    held.keep_labels("v", BOX, "ref", num_regions=9)
    held.keep_sums("v", BOX, 0, "sums")
    held.keep_labels("other", BOX, "ref", num_regions=1)
    held.drop("v")
    held.let_go("v", BOX)
    assert count(held) == 1
