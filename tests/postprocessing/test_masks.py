"""Masks are found in labels of any values."""

from __future__ import annotations

import numpy as np
import pytest

from unet_batch.postprocessing.masks import find_masks, members


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_voxel_is_told_its_mask(dtype: type) -> None:
    labels = np.array([[[0, 3, 7, 255]]], dtype)
    assert members(labels, [(7,), (3, 255)]).tolist() == [[[0, 2, 1, 2]]]


def test_more_masks_than_a_byte_counts_are_told_apart() -> None:
    labels = np.arange(400, dtype=np.uint16).reshape(1, 1, -1)
    masks = [(value,) for value in range(1, 400)]
    assert members(labels, masks)[0, 0].tolist() == list(range(400))


def test_masks_are_cut_to_their_voxels_and_absent_ones_left_out() -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 1:3, 2:] = 6
    labels[1, 2, 3] = 5
    (only,) = find_masks(labels, [(9,), (6,)])
    assert only.number == 2
    assert only.slices == (slice(1, 2), slice(1, 3), slice(2, 5))
    assert only.voxels.tolist() == [[[True, True, True], [True, False, True]]]
