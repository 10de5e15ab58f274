"""Statistics agree with NumPy's on all voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from unet_batch.storage import statistics
from unet_batch.storage.statistics import PERCENTAGES, compute_statistics

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
small_types = st.sampled_from([np.dtype(t) for t in ("uint8", "int8", "uint16", "int16")])
wide_types = st.sampled_from([np.dtype(t) for t in ("int32", "float32", "float64")])


def voxels_of(dtypes: st.SearchStrategy[np.dtype[Any]]) -> st.SearchStrategy[NDArray[Any]]:
    def of(dtype: np.dtype[Any]) -> st.SearchStrategy[NDArray[Any]]:
        values = st.integers(-30_000, 30_000) if dtype.kind != "u" else st.integers(0, 200)
        if dtype.itemsize == 1:
            values = st.integers(0, 100)
        return hnp.arrays(dtype, shapes, elements=values)

    return dtypes.flatmap(of)


@given(voxels_of(st.one_of(small_types, wide_types)), st.integers(1, 50))
def test_figures_equal_numpys(voxels: NDArray[Any], slab: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SLAB_VOXELS", slab)  # many slabs, cut along any axis
        found = compute_statistics(voxels)
    for channel, figures in zip(voxels.astype(np.float64), found, strict=True):
        assert (figures.min, figures.max) == (channel.min(), channel.max())
        assert figures.mean == pytest.approx(channel.mean(), rel=1e-9, abs=1e-9)
        assert figures.std == pytest.approx(channel.std(), rel=1e-9, abs=1e-9)
        expected = np.percentile(channel, PERCENTAGES)
        np.testing.assert_allclose(list(figures.percentiles.values()), expected, atol=1e-9)
        assert figures.num_nonfinite == 0


def test_foreground_is_what_lies_above_the_mean() -> None:
    voxels = np.array([0, 0, 0, 10, 14], dtype=np.int16).reshape(1, 1, 1, 5)
    (figures,) = compute_statistics(voxels)
    assert figures.foreground_share == pytest.approx(0.4)
    assert (figures.foreground_mean, figures.foreground_std) == (12.0, 2.0)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_constant_channel_has_no_foreground(dtype: str) -> None:
    (figures,) = compute_statistics(np.full((1, 2, 3, 4), 7, dtype))
    assert (figures.min, figures.max, figures.mean, figures.std) == (7, 7, 7, 0)
    assert (figures.foreground_share, figures.foreground_mean, figures.foreground_std) == (0, 7, 0)


def test_non_finite_voxels_are_counted_and_left_out() -> None:
    voxels = np.array([np.nan, 1, 3, np.inf, -np.inf], dtype=np.float32).reshape(1, 1, 1, 5)
    (figures,) = compute_statistics(voxels)
    assert (figures.min, figures.max, figures.mean, figures.std) == (1, 3, 2, 1)
    assert figures.num_nonfinite == 3


def test_a_channel_without_finite_voxels_is_all_zero() -> None:
    (figures,) = compute_statistics(np.full((1, 1, 2, 2), np.nan))
    assert (figures.min, figures.max, figures.mean, figures.std) == (0, 0, 0, 0)
    assert set(figures.percentiles.values()) == {0.0}
    assert figures.num_nonfinite == 4


def test_a_small_spread_on_a_large_offset_keeps_its_precision() -> None:
    voxels = 1e8 + np.random.default_rng(0).normal(size=(1, 64, 64, 300))
    (figures,) = compute_statistics(voxels)
    assert figures.std == pytest.approx(voxels.std(), rel=1e-6)


def test_a_sample_of_a_large_volume_meets_its_percentiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_SAMPLED_VOXELS", 20_000)
    voxels = np.random.default_rng(0).normal(size=(1, 64, 64, 64)).astype(np.float32)
    (figures,) = compute_statistics(voxels)
    assert figures.max == voxels.max()  # exact, unlike what is sampled
    np.testing.assert_allclose(
        list(figures.percentiles.values()), np.percentile(voxels, PERCENTAGES), atol=0.1
    )


def test_a_sample_does_not_fall_into_step_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_SAMPLED_VOXELS", 1024)
    voxels = np.zeros((1, 16, 16, 16), dtype=np.float32)
    voxels[..., 1::2] = 1
    (figures,) = compute_statistics(voxels)
    assert figures.foreground_share == pytest.approx(0.5, abs=0.01)
