"""Counting: as numpy counts, for any values and any number of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from unet_batch.storage.counting import NUM_TABLES, count_into


@given(hnp.arrays(np.uint16, hnp.array_shapes(max_dims=1, max_side=99)))
def test_counts_are_numpys(values: NDArray[Any]) -> None:
    tables = np.zeros((NUM_TABLES, 2**16), np.int64)
    count_into(values, tables)
    count_into(values, tables)
    assert np.array_equal(tables.sum(axis=0), 2 * np.bincount(values, minlength=2**16))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nothing_counts_as_nothing(dtype: Any) -> None:
    tables = np.zeros((NUM_TABLES, 2**16), np.int64)
    count_into(np.zeros(0, dtype), tables)
    assert not tables.any()
