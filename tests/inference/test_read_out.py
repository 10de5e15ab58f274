"""Labels that the compiled loops read out of sums and logits, against NumPy's argmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unet_batch.inference.floats import as_numbers
from unet_batch.inference.kernels import (
    MOST_UNROLLED,
    finish_channels_first,
    finish_channels_last,
)

SHAPE = (3, 4, 37)  # (z, y, x): a row is no whole number of vectors
SPANS = np.array([[1, 0, 2], [0, 1, 3], [2, 5, 30]], np.int64)
"""(start of the sums, of the labels, length) by z, y, x."""

READ = (slice(1, 3), slice(0, 3), slice(2, 32))
WRITTEN = (slice(0, 2), slice(1, 4), slice(5, 35))
NUMBERS = [2, MOST_UNROLLED, MOST_UNROLLED + 1, 61]

Types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
Classes = pytest.mark.parametrize("num_classes", NUMBERS)
Layouts = pytest.mark.parametrize("is_last", [False, True])


def sums_of(num_classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Whole numbers (class, z, y, x), few, so that many are equal; some are -0.0."""
    generator = torch.Generator().manual_seed(num_classes)
    shape = (num_classes, *SHAPE)
    numbers = torch.randint(-3, 3, shape, generator=generator).to(dtype)
    is_negative = torch.randint(0, 2, shape, generator=generator).bool()
    return torch.where((numbers == 0) & is_negative, torch.tensor(-0.0, dtype=dtype), numbers)


def read_out(
    sums: torch.Tensor, *, is_last: bool, clears: bool = False
) -> tuple[int, NDArray[Any], NDArray[Any]]:
    """Rows that are broken, the labels, and what the sums are then, (class, z, y, x)."""
    labels = np.full((4, 4, 40), 999, np.uint16)
    if not is_last:
        planes = as_numbers(sums.clone())
        return finish_channels_first(planes, labels, SPANS, clears), labels, planes
    rows = as_numbers(sums.permute(1, 2, 3, 0).contiguous().flatten(-2)[None])
    broken = finish_channels_last(rows, len(sums), labels, SPANS, clears=clears)
    left = rows[0].reshape(*SHAPE, len(sums))
    return broken, labels, np.moveaxis(left, -1, 0)


@Classes
@Types
@Layouts
def test_the_largest_class_and_the_lower_of_equal_ones(
    num_classes: int, dtype: torch.dtype, *, is_last: bool
) -> None:
    sums = sums_of(num_classes, dtype)
    broken, labels, left = read_out(sums, is_last=is_last)
    expected = np.full_like(labels, 999)
    expected[WRITTEN] = sums.float().numpy()[:, *READ].argmax(0)
    np.testing.assert_array_equal(labels, expected)
    assert broken == 0
    np.testing.assert_array_equal(left, as_numbers(sums))


@Classes
@Types
@Layouts
def test_what_was_read_is_zero_then(num_classes: int, dtype: torch.dtype, *, is_last: bool) -> None:
    sums = sums_of(num_classes, dtype)
    _, labels, left = read_out(sums, is_last=is_last, clears=True)
    expected = as_numbers(sums.clone())
    expected[:, *READ] = 0
    np.testing.assert_array_equal(left, expected)
    np.testing.assert_array_equal(labels, read_out(sums, is_last=is_last)[1])


@Classes
@Types
@Layouts
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_counted(
    num_classes: int, dtype: torch.dtype, value: float, *, is_last: bool
) -> None:
    sums = sums_of(num_classes, dtype)
    sums[0, 0, 0, 0] = value  # not read
    sums[num_classes - 1, 1, 2, 2] = value
    sums[0, 2, 1, 31] = sums[1, 2, 1, 7] = value  # in one row
    assert read_out(sums, is_last=is_last)[0] == 2


@Types
@Layouts
def test_the_largest_finite_numbers_are_finite(dtype: torch.dtype, *, is_last: bool) -> None:
    sums = sums_of(3, dtype)
    most = torch.finfo(dtype).max
    sums[0, 1, 0, 2:10], sums[1, 1, 0, 2:10] = -most, most
    broken, labels, _ = read_out(sums, is_last=is_last)
    assert broken == 0
    assert (labels[0, 1, 5:13] == 1).all()
