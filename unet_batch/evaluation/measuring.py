"""From voxels to scores: everything that is counted of two masks, region by region, in one pass.

What regions give adds up, so a Volume of any size is scored a Shard at a time. In memory are the
voxels of one region of both masks, and the border voxels found so far (`evaluation.surface`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, prod

import numpy as np
from numpy.typing import NDArray

from unet_batch.evaluation.dice import Overlap, count_overlap
from unet_batch.evaluation.placement import Profiles, count_profiles
from unet_batch.evaluation.scores import Score
from unet_batch.evaluation.surface import (
    Border,
    SurfaceDistances,
    find_border,
    join_borders,
    surface_distances,
)
from unet_batch.planning.specs.scoring import METRICS, Metric, ScoringSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.tiling.box import Box

Voxels = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class Scoring:
    """What to measure: the metrics, and the tolerance of surface Dice in mm."""

    metrics: tuple[Metric, ...] = METRICS
    tolerance_mm: float = 1.0

    @classmethod
    def of(cls, spec: ScoringSpec) -> Scoring:
        """The part of a Spec that workers need."""
        return cls(spec.metrics, spec.tolerance_mm)

    @property
    def has_surfaces(self) -> bool:
        """Whether border voxels are needed."""
        return "hd95" in self.metrics or "surface_dice" in self.metrics


@dataclass(frozen=True, slots=True)
class Measured:
    """What one region, or several together, say of a mask and its truth.

    Attributes
    ----------
    profiles: of the mask.
    overlap: with the truth; None without one.
    borders, true_borders: of each region, of the mask and of the truth; empty if not needed.
    """

    profiles: Profiles
    overlap: Overlap | None
    borders: tuple[Border, ...] = ()
    true_borders: tuple[Border, ...] = ()

    def __add__(self, other: Measured) -> Measured:
        has_truth = self.overlap is not None and other.overlap is not None
        return Measured(
            self.profiles + other.profiles,
            self.overlap + other.overlap if has_truth else None,  # type: ignore[operator]
            self.borders + other.borders,
            self.true_borders + other.true_borders,
        )


def measure_region(
    predicted: Voxels,
    truth: Voxels | None,
    class_values: Sequence[int],
    *,
    region: Box,
    shape_zyx: Sequence[int],
    has_surfaces: bool,
) -> Measured:
    """What the voxels of `region` of masks of `shape_zyx` say."""
    profiles = count_profiles(predicted, class_values, region=region, shape_zyx=shape_zyx)
    if truth is None:
        return Measured(profiles, None)
    overlap = count_overlap(predicted, truth, class_values)
    if not has_surfaces:
        return Measured(profiles, overlap)
    ours, theirs = (
        find_border(mask, class_values, region=region, shape_zyx=shape_zyx)
        for mask in (predicted, truth)
    )
    return Measured(profiles, overlap, (ours,), (theirs,))


def scores_of(
    volume_id: str,
    classes: Sequence[LabelClass],
    measured: Measured,
    *,
    spacing_mm: Sequence[float],
    scoring: Scoring,
) -> tuple[Score, ...]:
    """One Score for each of `classes`, which `measured` counted in this order.

    `measured` is that of the whole Volume, whose voxels are `spacing_mm` (z, y, x) apart.
    """
    distances = _distances(classes, measured, spacing_mm)
    return tuple(
        _score(volume_id, one, k, measured, prod(spacing_mm) / 1000, distances[k], scoring)
        for k, one in enumerate(classes)
    )


def score_masks(
    volume_id: str,
    predicted: Voxels,
    truth: Voxels,
    classes: Sequence[LabelClass],
    *,
    spacing_mm: Sequence[float],
    scoring: Scoring | None = None,
) -> tuple[Score, ...]:
    """One Score for each of `classes` of two masks (z, y, x) that are in memory already."""
    scoring = scoring or Scoring()
    whole = Box.from_shape(predicted.shape)
    values = [one.value for one in classes]
    measured = measure_region(
        predicted,
        truth,
        values,
        region=whole,
        shape_zyx=whole.shape,
        has_surfaces=scoring.has_surfaces,
    )
    return scores_of(volume_id, classes, measured, spacing_mm=spacing_mm, scoring=scoring)


def _distances(
    classes: Sequence[LabelClass], measured: Measured, spacing_mm: Sequence[float]
) -> list[SurfaceDistances | None]:
    if not measured.borders:
        return [None] * len(classes)
    shape = [axis.shape[1] for axis in measured.profiles.per_axis]
    ours, theirs = (join_borders(b, shape) for b in (measured.borders, measured.true_borders))
    return [
        surface_distances(ours, theirs, one.value, shape_zyx=shape, spacing_mm=spacing_mm)
        for one in classes
    ]


def _score(
    volume_id: str,
    one: LabelClass,
    k: int,
    measured: Measured,
    voxel_ml: float,
    distances: SurfaceDistances | None,
    scoring: Scoring,
) -> Score:
    overlap = measured.overlap
    num_predicted = int(measured.profiles.per_axis[0][k].sum())
    num_true = int(overlap.true[k]) if overlap else None
    hd95, surface_dice = _of_surfaces(distances, scoring)
    return Score(
        volume_id=volume_id,
        class_value=one.value,
        class_name=one.name,
        dice=_known(float(overlap.dice[k])) if overlap else None,
        predicted_ml=num_predicted * voxel_ml,
        true_ml=None if num_true is None else num_true * voxel_ml,
        intersection_voxels=int(overlap.intersection[k]) if overlap else None,
        predicted_voxels=num_predicted,
        true_voxels=num_true,
        hd95_mm=hd95,
        surface_dice=surface_dice,
    )


def _of_surfaces(
    distances: SurfaceDistances | None, scoring: Scoring
) -> tuple[float | None, float | None]:
    if distances is None:
        return None, None
    hd95 = _known(distances.hd95_mm) if "hd95" in scoring.metrics else None
    wants_dice = "surface_dice" in scoring.metrics
    return hd95, _known(distances.surface_dice(scoring.tolerance_mm)) if wants_dice else None


def _known(value: float) -> float | None:
    return None if isnan(value) else value
