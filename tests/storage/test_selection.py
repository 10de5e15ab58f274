"""A box and what is taken of it, together, are what NumPy selects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unet_batch.storage.selection import bounding_box

VOXELS = np.arange(3 * 4 * 5 * 6).reshape(3, 4, 5, 6)


@pytest.mark.parametrize(
    "selection",
    [
        ...,
        1,
        -1,
        slice(None),
        (0, slice(1, 3)),
        (..., slice(2, 4)),
        (slice(None), -2, slice(None, None, 2)),
        (slice(2, 0, -1), slice(0, 0)),
        ([2, 0], slice(None), [True, False, True, False, False]),
    ],
)
def test_box_and_rest_are_the_selection(selection: Any) -> None:
    box, rest = bounding_box(selection, VOXELS.shape)
    np.testing.assert_array_equal(VOXELS[tuple(box)][rest], VOXELS[selection])
