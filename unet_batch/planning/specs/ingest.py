"""IngestSpec: which files become Volumes, and which masks their truth."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from unet_batch.planning.specs.base import Bytes, SpecModel

LabelsName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
MaskValue = Annotated[int, Field(ge=0, le=65535)]
ClassValue = Annotated[int, Field(ge=1, le=65535)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class IngestSpec(SpecModel):
    """Turn scans of any known format into Volumes of an Archive: `jobs/ingest.yaml`."""

    archive: str
    sources: tuple[str, ...] = Field(
        min_length=1,
        description="files, folders, patterns such as data/*/CT.nii.gz; also s3://, gs://, az://",
    )
    truth: dict[LabelsName, str] = Field(
        {}, description="Labels name: folder of masks, or a pattern with {folder}, {stem}, {name}"
    )
    class_names: dict[LabelsName, dict[MaskValue, str]] = Field(
        {}, description="Labels name: names of its mask values"
    )
    mask_values: dict[LabelsName, dict[MaskValue, MaskValue]] = Field(
        {}, description="Labels name: stored mask value to class value, such as {127: 1, 255: 2}"
    )
    stray_mask_values: Literal["refuse", "nearest"] = Field(
        "refuse", description="stored values that mask_values lacks: quarantine, or take as nearest"
    )
    segments: dict[LabelsName, dict[ClassValue, str]] = Field(
        {}, description="Labels name: class value to label pattern of DICOM SEG or RTSTRUCT (GTV*)"
    )
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = Field(
        None, description="voxel size (z, y, x) of pictures and TIFF; None: stated, else 1 mm"
    )
    resample_tilt: bool = Field(
        default=False, description="straighten DICOM with gantry tilt; false: quarantine it"
    )
    stack_pictures: bool = Field(
        default=False, description="the pictures of a folder are slices of one Volume"
    )
    channels: dict[str, str] = Field(
        {}, description="channel name: file name pattern; each folder becomes one Volume"
    )
    exclude: tuple[str, ...] = Field((), description="file name patterns to leave out")
    copy_ome_zarr: bool = Field(
        default=False, description="copy the voxels of OME-Zarr; false: they stay where they lie"
    )
    embedded_labels: bool = Field(
        default=True, description="masks in the `labels/` of OME-Zarr become Labels of their names"
    )
    pyramids: bool = Field(
        default=False, description="coarser levels of images and masks, for viewers of large ones"
    )
    ids: Literal["names", "hashed"] = Field(
        "names", description="Volume ids: file names less identifiers, or keyed digests of them"
    )
    keep_identifiers: bool = Field(
        default=False, description="keep names, IDs, dates, UIDs and texts of DICOM headers"
    )
    staging: Bytes = Field(
        4 * 2**30, ge=1, description="bytes of a scan in a bucket that a worker may hold on disk"
    )
    timeout_s: float = Field(
        3600.0, gt=0, description="a scan that takes longer (a decoder that hangs) is quarantined"
    )
    window: int | None = Field(
        None, ge=1, description="scans in flight at once; None: one and a half for each CPU"
    )
    allow_quarantined: int = Field(0, ge=0)
