"""Regions are read with what is around them; neighbours are as in scipy."""

from __future__ import annotations

import numpy as np
import pytest

from unet_batch.postprocessing.regions import InMemory, Work, structure_for
from unet_batch.tiling.box import Box


@pytest.mark.parametrize(("connectivity", "neighbours"), [(1, 6), (2, 18), (3, 26)])
def test_a_voxel_touches_6_18_or_26_others(connectivity: int, neighbours: int) -> None:
    assert structure_for(connectivity, (9, 9, 9)).sum() == neighbours + 1


@pytest.mark.parametrize(("connectivity", "neighbours"), [(1, 4), (2, 8), (3, 8)])
def test_a_volume_of_one_plane_is_an_image(connectivity: int, neighbours: int) -> None:
    structure = structure_for(connectivity, (1, 9, 9))
    assert structure[1].sum() == structure.sum() == neighbours + 1


def test_beyond_the_volume_there_is_background() -> None:
    labels = np.arange(1, 25, dtype=np.uint8).reshape(2, 3, 4)
    memory = InMemory(labels)
    work = Work(memory, memory, labels.shape, [], (), structure_for(1, labels.shape))
    around = work.read_around(Box((0, 1, 2), (1, 3, 4)), (1, 0, 2))
    assert (around == np.pad(labels, ((1, 0), (0, 0), (0, 2)))[:, 1:]).all()


def test_what_is_rewritten_leaves_the_source_alone() -> None:
    before, after = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    regions = list(Box.from_shape(before.shape).split((1, 2, 2)))
    work = Work(InMemory(before), InMemory(after), before.shape, regions, (), np.ones((3, 3, 3)))
    work.rewrite(lambda number, region, labels: labels.fill(number + 1))
    assert (before.max(), after[0].max(), after[1].min()) == (0, 1, 2)
