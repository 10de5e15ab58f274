"""How far numbers lie from the others', in standard deviations that outliers cannot inflate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation of a normal distribution, 1 / Φ⁻¹(3/4)."""

FAR = 3.5
"""Robust standard deviations beyond which a Volume stands out (Iglewicz and Hoaglin 1993)."""

_LEAST_SPREAD = 0.05
"""Spread of log volumes taken at least (5 %), so that near-equal Volumes are no outliers."""


def volume_outlyingness(class_ml: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How far each Volume's class volumes lie from the median, in robust standard deviations.

    `class_ml` maps a Volume id to the millilitres of every class, in one order for all; NaN
    where the Volume has no such class. Volumes differ by factors, so logarithms are compared;
    the largest deviation over the classes counts. A class that is empty where most Volumes
    hold it is infinitely far.

    >>> volume_outlyingness({"a": [10.0], "b": [10.0], "c": [0.0]})["c"]
    inf
    """
    if not class_ml:
        return {}
    table = np.array(list(class_ml.values()), dtype=np.float64)
    worst = volume_deviations(table).max(axis=1, initial=0.0)
    return dict(zip(class_ml, worst.tolist(), strict=True))


def volume_deviations(ml: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for each Volume and class of `ml` (Volumes, classes), of the same shape."""
    columns = [_deviations(column) for column in ml.T]
    return np.stack(columns, axis=1) if columns else np.zeros(ml.shape)


def spread_of(
    values: NDArray[np.float64], *, least_share: float = _LEAST_SPREAD
) -> tuple[float, float]:
    """Median and robust standard deviation of `values`, at least a share of the median."""
    centre = float(np.median(values))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(values - centre)))
    return centre, max(spread, least_share * abs(centre))


def _deviations(volumes_ml: NDArray[np.float64]) -> NDArray[np.float64]:
    present = volumes_ml > 0
    if not present.any():
        return np.zeros(volumes_ml.shape)
    logs = np.log(volumes_ml, out=np.zeros(volumes_ml.shape), where=present)
    centre = np.median(logs[present])
    spread = max(MAD_TO_SIGMA * float(np.median(np.abs(logs[present] - centre))), _LEAST_SPREAD)
    missing = np.inf if present.mean() > 0.5 else 0.0
    far = np.where(present, np.abs(logs - centre) / spread, missing)
    return np.where(np.isnan(volumes_ml), 0.0, far)
