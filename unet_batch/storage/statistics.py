"""ChannelStatistics of a scan, computed once at ingest so that no job reads it twice.

Integers of up to 16 bits are counted into a histogram, from which everything follows exactly.
Other types are summed slab by slab in float64; their percentiles and foreground come from
every n-th voxel, at most `MAX_SAMPLED_VOXELS` of them. Voxels come piece by piece, so memory is
bounded by a piece, and the same voxels always give the same figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.tiling.box import Box

PERCENTAGES = (0.5, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.5)
MAX_SAMPLED_VOXELS = 2_000_000
"""The 99.5th percentile then still rests on 10,000 voxels above it."""
SLAB_VOXELS = 2**20


@dataclass(frozen=True, slots=True)
class _Moments:
    count: int
    min: float
    max: float
    mean: float
    sum_of_squares: float  # of deviations from the mean

    @property
    def std(self) -> float:
        return float(np.sqrt(self.sum_of_squares / self.count))

    def __add__(self, other: _Moments) -> _Moments:
        """Moments of both sets (Chan, Golub, LeVeque 1983, eq. 2.1), stable for any mean."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return _Moments(
            count,
            min(self.min, other.min),
            max(self.max, other.max),
            self.mean + delta * other.count / count,
            self.sum_of_squares
            + other.sum_of_squares
            + delta**2 * self.count * other.count / count,
        )


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Ascending values and how often each occurs."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    def moments(self) -> _Moments:
        count = int(self.counts.sum())
        mean = float(self.values @ self.counts) / count
        squares = float((self.values - mean) ** 2 @ self.counts)
        return _Moments(count, float(self.values[0]), float(self.values[-1]), mean, squares)

    def above(self, threshold: float) -> _Distribution:
        first = int(np.searchsorted(self.values, threshold, side="right"))
        return _Distribution(self.values[first:], self.counts[first:])

    def percentiles(self) -> dict[float, float]:
        """Linear interpolation between the two nearest ranks, as `np.percentile`."""
        last_rank = np.cumsum(self.counts) - 1
        ranks = np.array(PERCENTAGES) / 100 * last_rank[-1]
        low = self.values[np.searchsorted(last_rank, np.floor(ranks))]
        high = self.values[np.searchsorted(last_rank, np.ceil(ranks))]
        exact = low + (high - low) * (ranks - np.floor(ranks))
        return dict(zip(PERCENTAGES, exact.tolist(), strict=True))


class ChannelTally:
    """Adds up the voxels of one channel, given piece by piece in C order.

    Parameters
    ----------
    dtype: of the voxels.
    size: how many there will be in all.
    """

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        is_counted = dtype.kind in "iu" and dtype.itemsize <= 2
        self._figures: _Histogram | _Sums = _Histogram(dtype) if is_counted else _Sums(size)

    def add(self, voxels: NDArray[Any]) -> None:
        """The next voxels, flat and contiguous."""
        self._figures.add(voxels)

    def finish(self) -> ChannelStatistics:
        """The figures of all voxels added; all zero where none of them is finite."""
        return self._figures.finish()


def compute_statistics(voxels_czyx: NDArray[Any]) -> tuple[ChannelStatistics, ...]:
    """Statistics of each channel's finite voxels; all zero where a channel has none."""
    return tuple(_channel_statistics(channel) for channel in voxels_czyx)


def slabs(voxels_zyx: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The voxels in flat pieces of about `SLAB_VOXELS`, in C order."""
    _, y, x = voxels_zyx.shape
    cell = (max(1, SLAB_VOXELS // (y * x)), min(y, max(1, SLAB_VOXELS // x)), x)
    for box in Box.from_shape(voxels_zyx.shape).split(cell):
        yield voxels_zyx[box.slices].ravel()


def _channel_statistics(voxels_zyx: NDArray[Any]) -> ChannelStatistics:
    tally = ChannelTally(voxels_zyx.dtype, voxels_zyx.size)
    for slab in slabs(voxels_zyx):
        tally.add(slab)
    return tally.finish()


class _Histogram:
    """Counts of every value that integers of up to 16 bits can have."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        # Not above: whoever only reads an Archive need not wait for numba.
        from unet_batch.storage.counting import NUM_TABLES, count_into  # noqa: PLC0415

        self._dtype, self._count_into = dtype, count_into
        self._tables = np.zeros((NUM_TABLES, 2 ** (8 * dtype.itemsize)), dtype=np.int64)

    def add(self, voxels: NDArray[Any]) -> None:
        # As unsigned, negative values follow the positive ones.
        self._count_into(voxels.view(f"u{self._dtype.itemsize}"), self._tables)

    def finish(self) -> ChannelStatistics:
        lowest = int(np.iinfo(self._dtype).min)
        ascending = np.roll(self._tables.sum(axis=0), -lowest)
        present = np.flatnonzero(ascending)
        values = (present + lowest).astype(np.float64)
        distribution = _Distribution(values, ascending[present])
        return _statistics(distribution.moments(), distribution, num_nonfinite=0)


class _Sums:
    """Moments of all finite voxels, and every n-th of them."""

    def __init__(self, size: int) -> None:
        # An odd step does not fall into step with axes of 2^n voxels.
        self._step = -(-size // MAX_SAMPLED_VOXELS) | 1
        self._sampled: list[NDArray[np.float64]] = []
        self._moments: _Moments | None = None
        self._seen = 0

    def add(self, voxels: NDArray[Any]) -> None:
        self._sampled.append(_finite(voxels[-self._seen % self._step :: self._step]))
        self._seen += voxels.size
        values = _finite(voxels)
        if values.size:
            mean = float(values.mean())
            squares = float(np.square(values - mean).sum())
            part = _Moments(values.size, float(values.min()), float(values.max()), mean, squares)
            self._moments = self._moments + part if self._moments else part

    def finish(self) -> ChannelStatistics:
        if self._moments is None:
            nothing = dict.fromkeys(PERCENTAGES, 0.0)
            return ChannelStatistics(0.0, 0.0, 0.0, 0.0, nothing, 0.0, 0.0, 0.0, self._seen)
        values = np.sort(np.concatenate(self._sampled))
        if not values.size:
            values = np.array([self._moments.mean])
        sample = _Distribution(values, np.ones(values.size, dtype=np.int64))
        num_nonfinite = self._seen - self._moments.count
        return _statistics(self._moments, sample, num_nonfinite=num_nonfinite)


def _statistics(
    moments: _Moments, distribution: _Distribution, *, num_nonfinite: int
) -> ChannelStatistics:
    body = distribution.above(moments.mean)
    foreground = body.moments() if body.values.size else None
    return ChannelStatistics(
        min=moments.min,
        max=moments.max,
        mean=moments.mean,
        std=moments.std,
        percentiles=distribution.percentiles(),
        foreground_share=float(body.counts.sum() / distribution.counts.sum()),
        foreground_mean=foreground.mean if foreground else moments.mean,
        foreground_std=foreground.std if foreground else 0.0,
        num_nonfinite=num_nonfinite,
    )


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    return wide if finite.all() else wide[finite]
