"""EvaluateSpec: which Labels to score against which truth."""

from __future__ import annotations

from pydantic import Field

from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.where import WhereField

LABELS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class EvaluateSpec(SpecModel):
    """Score Labels against a truth: `jobs/evaluate.yaml`."""

    archive: str
    labels: str = Field(pattern=LABELS_PATTERN, description="the Labels to score")
    truth: str = Field(pattern=LABELS_PATTERN, description="the Labels that are right")
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
    out: str | None = Field(
        None,
        description="Parquet file of all scores; None: in the Archive, under `evaluations/`",
    )
    window: int | None = Field(
        None, ge=1, description="Shards in flight on Ray; None: 1.5 for each CPU"
    )
