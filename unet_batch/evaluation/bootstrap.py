"""Confidence intervals of mean scores, by drawing Volumes again and again.

Volumes are what is sampled from a population of patients, so whole Volumes are drawn, with all
their classes and scores together (the percentile bootstrap of Efron and Tibshirani 1993, An
Introduction to the Bootstrap, chapter 13). The same seed gives the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Interval = tuple[float, float]

_BATCH_COUNTS = 2**21
"""Counts held at a time, 16 MiB: a batch of draws of a hundred thousand Volumes."""


@dataclass(frozen=True, slots=True)
class MeanIntervals:
    """Intervals of the mean of each column, and of the mean of those means; None: unknown."""

    columns: tuple[Interval | None, ...]
    overall: Interval | None


def intervals_of_means(
    values: Values, *, resamples: int, confidence: float = 0.95, seed: int = 0
) -> MeanIntervals:
    """Intervals from `values` of shape (Volumes, classes), NaN where a Volume has no value.

    A draw's mean of a class is over the drawn Volumes that have one. No interval without
    resamples, or with fewer than two Volumes.
    """
    num_columns = values.shape[1]
    if resamples == 0 or len(values) < 2:
        return MeanIntervals((None,) * num_columns, None)
    means = np.concatenate(list(_means(values, resamples, seed)))
    known = ~np.isnan(means)
    count = known.sum(axis=1)
    overall = np.full(len(means), np.nan)
    np.divide(np.where(known, means, 0).sum(axis=1), count, out=overall, where=count > 0)
    columns = tuple(_interval(means[:, k], confidence) for k in range(num_columns))
    return MeanIntervals(columns, _interval(overall, confidence))


def _means(values: Values, resamples: int, seed: int) -> Iterator[Values]:
    """Mean of each column in each draw, (draws, columns), a batch of draws at a time."""
    random = np.random.default_rng(seed)
    num = len(values)
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    batch = max(1, _BATCH_COUNTS // num)
    for start in range(0, resamples, batch):
        draws = range(min(batch, resamples - start))
        times = np.stack(
            [np.bincount(random.integers(num, size=num), minlength=num) for _ in draws]
        )
        weights = times.astype(np.float64)
        sums, counts = weights @ filled, weights @ known
        means = np.full(sums.shape, np.nan)
        yield np.divide(sums, counts, out=means, where=counts > 0)


def _interval(means: Values, confidence: float) -> Interval | None:
    known = means[~np.isnan(means)]
    if not known.size:
        return None
    outside = 50.0 * (1.0 - confidence)
    low, high = np.percentile(known, [outside, 100.0 - outside])
    return float(low), float(high)
