"""ScoringSpec: which metrics Labels are scored by, and how sure their means are."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from unet_batch.planning.specs.base import SpecModel

Metric = Literal["dice", "hd95", "surface_dice", "volume_error"]
"""Overlap; 95 % Hausdorff distance; share of surface within the tolerance; error of volume."""

METRICS: tuple[Metric, ...] = get_args(Metric)


class BootstrapSpec(SpecModel):
    """How the intervals of mean scores are made: whole Volumes are drawn again and again."""

    resamples: int = Field(2000, ge=0, le=1_000_000, description="draws; 0: no intervals")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the interval")
    seed: int = Field(0, ge=0, description="the same seed gives the same interval")


class ScoringSpec(SpecModel):
    """Fields of every Spec that scores Labels against a truth."""

    metrics: tuple[Metric, ...] = Field(
        METRICS, min_length=1, description="hd95 and surface_dice cost more than the others"
    )
    tolerance_mm: float = Field(
        1.0, ge=0, description="surfaces that lie this close agree: for surface_dice"
    )
    bootstrap: BootstrapSpec = BootstrapSpec()
