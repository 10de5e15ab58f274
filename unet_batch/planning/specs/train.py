"""TrainSpec: which Volumes to learn from, which network to train, and the recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.specs.recipe import (
    Activation,
    AugmentationSpec,
    TrainingSpec,
    TrainResourceSpec,
)
from unet_batch.planning.where import WhereField


class SplitSpec(SpecModel):
    """Which Volumes are held back from training (`planning.split.split_volumes`)."""

    holdout_share: float = Field(0.2, ge=0, lt=1, description="share of the Volumes held back")
    holdout: tuple[str, ...] = Field((), description="hold back these ids instead of a share")
    seed: int = 0


class NetworkSpec(SpecModel):
    """A network of the allow-list (`models.networks.NETWORKS`) and its arguments."""

    name: str = "residual_unet"
    spatial_dims: Literal[2, 3] = 3
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="of the network's builder; unknown ones are refused"
    )


class TrainRecipe(SpecModel):
    """How to train, whatever the Volumes: what `train` and `retrain` share."""

    split: SplitSpec = SplitSpec()
    network: NetworkSpec = NetworkSpec()
    roi: tuple[int, ...] = Field((64, 64, 64), description="training patch and tile, in voxels")
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

    @model_validator(mode="after")
    def _check_roi(self) -> Self:
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
