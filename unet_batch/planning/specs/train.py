"""TrainSpec: which Volumes to learn from, which network to train, and the recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import Bytes, SpecModel
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.where import WhereField

Probability = Annotated[float, Field(ge=0, le=1)]


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


class AugmentationSpec(SpecModel):
    """Random changes of a training patch. Probabilities are independent of each other."""

    affine: Probability = Field(1.0, description="rotate and scale, one interpolation for both")
    rotation_deg: float = Field(15.0, ge=0, le=180, description="largest angle about each axis")
    scale: float = Field(0.15, ge=0, lt=1, description="0.15: sizes of 1/1.15 to 1.15")
    flip: tuple[Literal["z", "y", "x"], ...] = Field(
        (), description="axes mirrored half the time; wrong where left and right differ"
    )
    contrast: Probability = Field(0.5, description="x * (0.75 to 1.25) + (-0.2 to 0.2)")
    gamma: Probability = Field(0.3, description="exponent of 0.67 to 1.5 over the patch's range")
    noise: Probability = Field(0.2, description="gaussian, standard deviation up to 0.15")
    blur: Probability = Field(0.1, description="gaussian, sigma of 0.5 to 1 voxel")
    low_resolution: Probability = Field(0.15, description="sampled down by up to 2 and up again")


class TrainingSpec(SpecModel):
    """The optimisation itself."""

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(4, ge=1, description="patches a step of each worker")
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(3e-3, gt=0, description="the highest of the schedule")
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["one_cycle", "cosine", "poly", "constant"] = "one_cycle"
    warmup_share: float = Field(0.15, ge=0, lt=1, description="share of the steps that warm up")
    gradient_clip: float = Field(12.0, gt=0, description="largest norm of the gradient")
    loss: Literal["dice_ce", "dice", "cross_entropy"] = "dice_ce"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema_decay: float = Field(0.99, ge=0, lt=1, description="of averaged weights; 0: no averaging")
    foreground_share: Probability = Field(0.5, description="patches centred on a labelled voxel")
    validate_every: int = Field(0, ge=0, description="steps; 0: only at the end")
    validate_volumes: int = Field(8, ge=1, description="held-back Volumes used before the end")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    log_every: int = Field(10, ge=1, description="steps between reported losses")
    seed: int = 0


class TrainResourceSpec(SpecModel):
    """The means of a training."""

    workers: int = Field(1, ge=1, description="processes that train together")
    cpus_per_worker: int | Literal["auto"] = Field("auto", description="auto: all, shared evenly")
    gpus_per_worker: float = Field(0.0, ge=0)
    max_failures: int = Field(3, ge=0, description="lost workers that are made up for")
    cache: Bytes = Field(2 * 2**30, ge=0, description="bytes of Volumes a worker keeps in memory")
    read_ahead: int = Field(4, ge=1, description="batches made ahead of the network")


class TrainSpec(SpecModel):
    """Train a network on the Volumes of an Archive: `jobs/train.yaml`."""

    archive: str
    truth: str = Field(description="name of the Labels to learn")
    out: str = Field(description="folder of the Bundle to write")
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
    split: SplitSpec = SplitSpec()
    network: NetworkSpec = NetworkSpec()
    roi: tuple[int, ...] = Field((64, 64, 64), description="training patch and tile, in voxels")
    grid: GridSpec = OWN_GRID
    intensity: IntensitySpec = IntensitySpec()
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
