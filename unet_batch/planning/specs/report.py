"""ReportSpec: which Labels to show, and where the HTML file goes."""

from __future__ import annotations

from pydantic import Field

from unet_batch.planning.specs.evaluate import LABELS_PATTERN
from unet_batch.planning.specs.scoring import ScoringSpec
from unet_batch.planning.where import WhereField


class ReportSpec(ScoringSpec):
    """Show Labels, scored where there is a truth, in one HTML file: `jobs/report.yaml`."""

    archive: str
    labels: str = Field(pattern=LABELS_PATTERN, description="the Labels to show")
    truth: str | None = Field(
        None, pattern=LABELS_PATTERN, description="Labels to compare with; None: the odd ones first"
    )
    out: str = Field(description="folder for `report.html`, or a path that ends in .html")
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
    title: str | None = Field(None, description="None: made from the names of the Labels")
    channel: int = Field(0, ge=0, description="channel of the scan that the pictures show")
    max_volumes: int = Field(300, ge=0, description="Volumes with pictures, the worst")
    max_listed: int = Field(
        2000, ge=1, description="rows of a table, the worst; `evaluate` writes a table of all"
    )
    window: int | None = Field(
        None, ge=1, description="Volumes in flight on Ray; None: 1.5 for each CPU"
    )
