"""ExportSpec: which Labels, or scans, leave the Archive, and as files of which format."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.where import WhereField


class ExportSpec(SpecModel):
    """Write Labels, or the scans, on the scans' own grids: `jobs/export.yaml`."""

    archive: str
    out: str = Field(description="folder for <Volume id>.<suffix>; made where it is missing")
    labels: str | None = Field(None, description="Labels to write; None: the scan, with `image`")
    image: bool = Field(default=False, description="write the scans instead of Labels")
    probabilities: bool = Field(
        default=False,
        description="also <Volume id>.probabilities.nii.gz, round(255 p) of each class, where"
        " the Labels have them",
    )
    format: Literal["nifti", "nrrd", "dicom-seg"] = Field(
        "nifti", description="dicom-seg takes Labels only"
    )
    seg_type: Literal["binary", "labelmap"] = Field(
        "binary",
        description="of DICOM SEG: binary, which all readers know, or the smaller labelmap",
    )
    dicom_series: str | None = Field(
        None,
        description="folder of the DICOM series that a SEG refers to, with {name} for the Volume "
        "id; None: the SEG stands alone",
    )
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None

    @model_validator(mode="after")
    def _writes_one_thing(self) -> Self:
        if self.image == (self.labels is not None):
            raise ValueError("give either labels: NAME, or image: true")
        if self.probabilities and (self.image or self.format != "nifti"):
            raise ValueError("probabilities belong to labels: NAME, and to format: nifti")
        if self.image and self.format == "dicom-seg":
            raise ValueError("format dicom-seg holds Labels; for scans take nifti or nrrd")
        if self.dicom_series is not None and self.format != "dicom-seg":
            raise ValueError("dicom_series belongs to format: dicom-seg")
        return self
