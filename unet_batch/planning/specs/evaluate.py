"""EvaluateSpec: which Labels to score against which truth."""

from __future__ import annotations

from pydantic import Field

from unet_batch.planning.specs.scoring import ScoringSpec
from unet_batch.planning.where import WhereField

LABELS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class EvaluateSpec(ScoringSpec):
    """Score Labels against a truth, or look for odd ones without: `jobs/evaluate.yaml`."""

    archive: str
    labels: str = Field(pattern=LABELS_PATTERN, description="the Labels to score")
    truth: str | None = Field(
        None,
        pattern=LABELS_PATTERN,
        description="the Labels that are right; None: only what is odd without a truth",
    )
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
    out: str | None = Field(
        None,
        description=".parquet or .csv file of all scores; None: in the Archive, `evaluations/`",
    )
    window: int | None = Field(
        None, ge=1, description="Volumes in flight on Ray; None: 1.5 for each CPU"
    )
