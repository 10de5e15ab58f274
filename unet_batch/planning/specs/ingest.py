"""IngestSpec: which files become Volumes, and which masks their truth."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unet_batch.planning.specs.base import SpecModel

LabelsName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
MaskValue = Annotated[int, Field(ge=0, le=65535)]


class IngestSpec(SpecModel):
    """Turn NIfTI files and DICOM series into Volumes of an Archive: `jobs/ingest.yaml`."""

    archive: str
    sources: tuple[str, ...] = Field(
        min_length=1, description="files, folders, or patterns such as data/*/CT.nii.gz"
    )
    truth: dict[LabelsName, str] = Field(
        {}, description="Labels name: folder of masks, or a pattern with {folder}, {stem}, {name}"
    )
    class_names: dict[LabelsName, dict[MaskValue, str]] = Field(
        {}, description="Labels name: names of its mask values"
    )
    channels: dict[str, str] = Field(
        {}, description="channel name: file name pattern; each folder becomes one Volume"
    )
    exclude: tuple[str, ...] = Field((), description="file name patterns to leave out")
    window: int | None = Field(
        None, ge=1, description="scans in flight at once; None: one and a half for each CPU"
    )
    allow_quarantined: int = Field(0, ge=0)
