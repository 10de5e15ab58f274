"""SegmentSpec: what to segment, with which model, within which means."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unet_batch.planning.specs.base import Bytes, SpecModel
from unet_batch.planning.where import WhereField


class InferenceSpec(SpecModel):
    """How tiles are laid, blended and predicted. These fields decide the result's bytes."""

    overlap: float = Field(0.5, ge=0, lt=1, description="share of a tile its neighbours share")
    importance: Literal["gaussian", "constant"] = "gaussian"
    roi: tuple[int, ...] | None = Field(None, description="tile in voxels; None: the Bundle's own")
    batch_size: int = Field(4, ge=1, description="tiles a forward pass")
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="auto: whichever measures faster, where the Job is long enough"
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    max_nonfinite_share: float = Field(
        0.0, ge=0, le=1, description="NaN and inf voxels allowed (read as 0 after normalisation)"
    )


class ResourceSpec(SpecModel):
    """The means a Job may use. These fields never change the result's labels."""

    replicas: int | Literal["auto"] = Field("auto", description="auto: one for each device")
    cpus_per_replica: int | Literal["auto"] = "auto"
    gpus_per_replica: float = Field(0.0, ge=0)
    memory_budget: Bytes = Field(2 * 2**30, ge=2**16, description="bytes a Replica may hold")
    window: int = Field(2, ge=1, description="Blocks in flight for each Replica")
    max_attempts: int = Field(3, ge=1, description="tries of a Block before quarantine")


class SegmentSpec(SpecModel):
    """Segment the Volumes of an Archive: `jobs/segment.yaml`."""

    archive: str
    model: str
    labels: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
    inference: InferenceSpec = InferenceSpec()
    resources: ResourceSpec = ResourceSpec()
    allow_quarantined: int = Field(0, ge=0)
    truth: str | None = Field(None, description="Labels to score against while it runs")
    metrics_port: int | None = Field(None, ge=0, le=65535)
    metrics_address: str = "127.0.0.1"
