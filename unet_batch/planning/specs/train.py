"""TrainSpec: which Volumes to learn from, which network to train, and the recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import Bytes, SpecModel
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.specs.recipe import (
    Activation,
    AugmentationSpec,
    TrainingSpec,
    TrainResourceSpec,
)
from unet_batch.planning.specs.scoring import ScoringSpec
from unet_batch.planning.specs.tracking import TrackingSpec
from unet_batch.planning.where import WhereField

AUTO: Literal["auto"] = "auto"
DEFAULT_EDGE = 64  # voxels of a tile's side


class SplitSpec(SpecModel):
    """Which Volumes are held back from training (`planning.split.split_volumes`)."""

    holdout_share: float = Field(0.2, ge=0, lt=1, description="share of the Volumes held back")
    holdout: tuple[str, ...] = Field((), description="hold back these ids instead of a share")
    by_patient: bool = Field(
        default=True,
        description="all Volumes of a patient on one side, where DICOM names patients; ids in"
        " `holdout` go before",
    )
    seed: int = 0


class NetworkSpec(SpecModel):
    """A network and its arguments; a name alone (`network: auto`) will do."""

    name: str = Field(
        "residual_unet",
        description="one of the allow-list (`models.networks.NETWORKS`); auto: nnU-Net's, derived"
        " from the Volumes; or package.module:callable, with trust_network",
    )
    spatial_dims: Literal[2, 3] = 3
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="of the network's builder; unknown ones are refused"
    )
    memory_budget: Bytes = Field(
        8 * 2**30, ge=2**20, description="name auto: bytes that a training step may take"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _derives_all_or_nothing(self) -> Self:
        if self.name == AUTO and self.arguments:
            raise ValueError(
                f"network.name auto derives the arguments itself, got {self.arguments}; name a"
                " network, such as dynunet, to give them"
            )
        return self


class TrainRecipe(SpecModel):
    """How to train, whatever the Volumes: what `train` and `retrain` share."""

    split: SplitSpec = SplitSpec()
    network: NetworkSpec = NetworkSpec()
    trust_network: bool = Field(
        default=False, description="let network.name import code: package.module:callable"
    )
    roi: tuple[int, ...] | Literal["auto"] = Field(
        AUTO,
        description="training patch and tile, in voxels; auto: what network.name auto derives,"
        " else 64 a side",
    )
    grid: GridSpec = OWN_GRID
    intensity: IntensitySpec = IntensitySpec()
    activation: Activation = Field(
        "softmax", description="softmax: classes exclude each other; sigmoid: each on its own"
    )
    regions: dict[str, tuple[Annotated[int, Field(ge=1)], ...]] = Field(
        default_factory=dict,
        description="with sigmoid: the classes to learn, as unions of the truth's values, e.g."
        " {tumour: [1, 2, 3], core: [1, 3]}; none: each value is a class",
    )
    partial_labels: bool = Field(
        default=False,
        description="a class that a Volume's Labels do not list is unknown there; else absent",
    )
    augmentation: AugmentationSpec = AugmentationSpec()
    training: TrainingSpec = TrainingSpec()
    resources: TrainResourceSpec = TrainResourceSpec()
    scoring: ScoringSpec = Field(
        ScoringSpec(), description="of the held-back Volumes at the end: the Bundle's scores"
    )
    tracking: TrackingSpec = TrackingSpec()

    @property
    def tile(self) -> tuple[int, ...]:
        """`roi` in numbers, one for each of the network's axes."""
        return (DEFAULT_EDGE,) * self.network.spatial_dims if self.roi == AUTO else self.roi

    @model_validator(mode="after")
    def _check_roi(self) -> Self:
        if self.roi == AUTO:
            return self
        if len(self.roi) != self.network.spatial_dims or min(self.roi, default=0) < 1:
            raise ValueError(
                f"roi {list(self.roi)} must be {self.network.spatial_dims} positive numbers,"
                " one for each of network.spatial_dims"
            )
        return self

    @model_validator(mode="after")
    def _check_regions(self) -> Self:
        if self.regions and self.activation != "sigmoid":
            raise ValueError("regions may overlap, which needs activation: sigmoid")
        if not all(self.regions.values()):
            raise ValueError("every one of regions needs at least one value of the truth")
        return self


class TrainSpec(TrainRecipe):
    """Train a network on the Volumes of an Archive: `jobs/train.yaml`."""

    archive: str
    truth: str = Field(description="name of the Labels to learn")
    out: str = Field(description="folder of the Bundle to write")
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
