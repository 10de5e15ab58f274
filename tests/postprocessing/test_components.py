"""Numbers of components, joined across the borders of regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from unet_batch.errors import MemoryBudgetError
from unet_batch.postprocessing.components import Numbering
from unet_batch.postprocessing.masks import find_masks
from unet_batch.postprocessing.regions import structure_for
from unet_batch.tiling.box import Box


def numbering_of(labels: Any, region: Any, connectivity: int) -> Numbering:
    regions = list(Box.from_shape(labels.shape).split(region))
    structure = structure_for(connectivity, labels.shape)
    masks = ((1,), (2,), (300,))
    return Numbering(regions, lambda box: find_masks(labels[box.slices], masks), structure)


@given(seed=st.integers(0, 2**31), connectivity=st.sampled_from([1, 2, 3]))
def test_components_are_those_of_the_whole_volume(
    make_labels: Any, seed: int, connectivity: int
) -> None:
    labels, region = make_labels(seed)
    numbering = numbering_of(labels, region, connectivity)
    numbers, first = np.zeros(labels.shape, int), 0
    for box, found, count in numbering.walk():
        numbers[box.slices] = np.where(found, found + first, 0)
        first += count
    components, owners = numbering.joined()
    for number, value in enumerate((1, 2, 300), start=1):
        mask = labels == value
        expected, how_many = ndimage.label(mask, structure_for(connectivity, labels.shape))
        pairs = set(zip(expected[mask], components[numbers[mask]], strict=True))
        assert len(pairs) == how_many == len({ours for _, ours in pairs})
        assert set(owners[numbers[mask]]) <= {number}


def test_a_region_is_labelled_the_same_again(make_labels: Any) -> None:
    labels, _ = make_labels(7)
    numbering = numbering_of(labels, (3, 4, 5), 1)
    first = 1
    for place, (box, found, count) in enumerate(list(numbering.walk())):
        again, owners = numbering.label(box)
        assert len(owners) == count
        assert ((again > 0) == (found > 0)).all()
        assert numbering.part(place) == slice(first, first + count)
        first += count


def test_too_many_components_are_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr("unet_batch.postprocessing.components.MAX_COMPONENTS", 5)
    labels = np.zeros((1, 1, 20), np.uint16)
    labels[0, 0, ::2] = 1
    with pytest.raises(MemoryBudgetError, match="more than 5 connected components"):
        list(numbering_of(labels, (1, 1, 4), 1).walk())
