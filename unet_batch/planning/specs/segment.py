"""SegmentSpec: what to segment, with which model, within which means."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import Bytes, SpecModel
from unet_batch.planning.specs.grid import Spacing
from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.planning.where import WhereField

MirrorAxis = Literal["z", "y", "x"]


class InferenceSpec(SpecModel):
    """How tiles are laid, blended and predicted. These fields decide the result's bytes."""

    overlap: float = Field(0.5, ge=0, lt=1, description="share of a tile its neighbours share")
    importance: Literal["gaussian", "constant"] = "gaussian"
    roi: tuple[int, ...] | None = Field(None, description="tile in voxels; None: the Bundle's own")
    spacing: Literal["auto", "model", "scan"] | Spacing = Field(
        "auto",
        description="what scans are resampled to: auto: what the Bundle asks for; model: the"
        " spacing it was trained at; scan: nothing; or millimetres (z, y, x)",
    )
    batch_size: int = Field(4, ge=1, description="tiles a forward pass")
    cuts: Literal["auto", "travel", "recompute"] = Field(
        "auto",
        description="where a volume is cut between Replicas: their sums travel, or tiles are"
        " predicted again; auto: what is predicted to take less time",
    )
    engine: Literal["auto", "torch", "openvino", "cuda_graph"] = Field(
        "auto",
        description="auto: whichever measures faster, where a Job takes over half a minute;"
        " cuda_graph: torch on a GPU, a pass replayed as one launch",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes it natively and it is precise"
    )
    bf16_tolerance: float = Field(
        0.01,
        ge=0,
        le=1,
        description="auto: share of voxels whose labels bf16 may change, on the first tiles",
    )
    mirror: tuple[MirrorAxis, ...] = Field(
        (), description="axes along which tiles are mirrored as well, and their logits averaged"
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="probability from which a class of a sigmoid is there"
    )
    probabilities: bool = Field(
        default=False, description="publish the classes' probabilities too, a byte each"
    )
    skip_below: float | None = Field(
        None, description="tiles whose voxels are all below this intensity are background"
    )
    skip_channel: str | None = Field(
        None, description="the channel that skip_below looks at; None: the first"
    )
    max_nonfinite_share: float = Field(
        0.0, ge=0, le=1, description="NaN and inf voxels allowed (read as 0 after normalisation)"
    )
    postprocess: tuple[PostprocessStep, ...] = Field(
        (), description="what is mended in finished Labels, step by step"
    )

    @model_validator(mode="after")
    def _names_each_axis_once(self) -> Self:
        if len(set(self.mirror)) < len(self.mirror):
            raise ValueError(f"mirror {list(self.mirror)} names an axis twice")
        return self


class ReplicaRange(SpecModel):
    """How many Replicas a Job holds: as many as it has work for, within these bounds."""

    min: int = Field(1, ge=0, description="kept until the Job ends, though they be idle")
    max: int = Field(ge=1, description="asked for; those the cluster has no room for wait")

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class ResourceSpec(SpecModel):
    """The means a Job may use. They change no label, but for ties at the last bit of float32.

    Where several threads share one pass, oneDNN's sums over many channels depend on how many
    tiles it has; lanes of one thread each, as Replicas on a CPU have by default, do not.
    """

    replicas: Annotated[int, Field(ge=1)] | ReplicaRange | Literal["auto"] = Field(
        "auto", description="a number, {min, max}, or auto: one for each device there is"
    )
    cpus_per_replica: int | Literal["auto"] = "auto"
    gpus_per_replica: float = Field(0.0, ge=0)
    memory_budget: Bytes = Field(
        2 * 2**30, ge=2**16, description="bytes a Replica may hold beside its libraries"
    )
    window: int = Field(2, ge=1, description="Blocks in flight for each Replica")
    max_attempts: int = Field(3, ge=1, description="tries of a Block before quarantine")
    price_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="price of a Replica for an hour, for `plan`"
    )
    priority: int = Field(
        0, ge=-100, le=100, description="among Jobs of one cluster the higher gets Replicas first"
    )
    share: float = Field(
        1.0, gt=0, le=1000, description="weight among Jobs of the same priority: 3 to 1"
    )

    @property
    def most_replicas(self) -> int | None:
        """Replicas at most; None where the cluster decides."""
        if isinstance(self.replicas, ReplicaRange):
            return self.replicas.max
        return None if self.replicas == "auto" else self.replicas


class PartitionSpec(SpecModel):
    """A share of a Job's Volumes, for one of several drivers. Each is a Job of its own."""

    index: int = Field(ge=0, description="which share, from 0")
    of: int = Field(ge=1, description="shares in all; the Volumes' ids decide")

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.index >= self.of:
            raise ValueError(f"index {self.index}: expected 0 to {self.of - 1}, of {self.of}")
        return self


class SegmentSpec(SpecModel):
    """Segment the Volumes of an Archive: `jobs/segment.yaml`."""

    archive: str
    model: str | tuple[str, ...] = Field(
        description="folder of a Bundle, or `name@champion`, `name@7`; of several: their mean"
    )
    registry: str | None = Field(
        None, description="where models with an @ are; None: UNET_BATCH_REGISTRY's"
    )
    trust_network: bool = Field(
        default=False, description="let Bundles import their network: package.module:callable"
    )
    labels: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
    partition: PartitionSpec | None = Field(
        None, description="of several drivers' shares this one's: {index: 0, of: 4}; None: all"
    )
    inference: InferenceSpec = InferenceSpec()
    resources: ResourceSpec = ResourceSpec()
    allow_quarantined: int = Field(0, ge=0)
    truth: str | None = Field(None, description="Labels to score against while it runs")
    metrics_port: int | None = Field(None, ge=0, le=65535)
    metrics_address: str = "127.0.0.1"

    @property
    def models(self) -> tuple[str, ...]:
        """What names the Bundles: one, or the members of an ensemble."""
        return (self.model,) if isinstance(self.model, str) else self.model

    @model_validator(mode="after")
    def _names_each_model_once(self) -> Self:
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"model {list(self.models)} must name Bundles, each once")
        return self
