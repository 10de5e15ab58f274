"""ExportSpec: which Labels, or scans, leave the Archive as NIfTI files."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import SpecModel


class ExportSpec(SpecModel):
    """Write Labels, or the scans, as NIfTI on the scans' own grids: `jobs/export.yaml`."""

    archive: str
    out: str = Field(description="folder for <Volume id>.nii.gz; made where it is missing")
    labels: str | None = Field(None, description="Labels to write; None: the scan, with `image`")
    image: bool = Field(default=False, description="write the scans instead of Labels")
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")

    @model_validator(mode="after")
    def _writes_one_thing(self) -> Self:
        if self.image == (self.labels is not None):
            raise ValueError("give either labels: NAME, or image: true")
        return self
