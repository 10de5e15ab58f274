"""The recipe of a training: how patches are changed, what is minimised, how, and by whom."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import Bytes, SpecModel

Probability = Annotated[float, Field(ge=0, le=1)]
Activation = Literal["softmax", "sigmoid"]
"""What makes probabilities of logits: of classes that exclude each other, or that may overlap."""

DEFAULT_BATCH_SIZE = 4


class AugmentationSpec(SpecModel):
    """Random changes of a training patch. Probabilities are independent of each other."""

    affine: Probability = Field(0.3, description="rotate and scale, one interpolation for both")
    rotation_deg: float = Field(15.0, ge=0, le=180, description="largest angle about each axis")
    scale: float = Field(0.15, ge=0, lt=1, description="0.15: sizes of 1/1.15 to 1.15")
    elastic: Probability = Field(0.0, description="bend, in the same interpolation")
    elastic_spacing: int = Field(16, ge=2, description="voxels between the points that are moved")
    elastic_sigma: float = Field(
        2.0, ge=0, description="standard deviation of their moves in voxels, cut off at 2 of them"
    )
    flip: tuple[Literal["z", "y", "x"], ...] = Field(
        (), description="axes mirrored half the time; wrong where left and right differ"
    )
    contrast: Probability = Field(0.5, description="x * (0.75 to 1.25) + (-0.2 to 0.2)")
    gamma: Probability = Field(0.3, description="exponent of 0.67 to 1.5 over the patch's range")
    noise: Probability = Field(0.2, description="gaussian, standard deviation up to 0.15")
    blur: Probability = Field(0.1, description="gaussian, sigma of 0.5 to 1 voxel")
    low_resolution: Probability = Field(0.15, description="sampled down by up to 2 and up again")


class LossSpec(SpecModel):
    """What is minimised: the sum of these terms, each times its weight; 0 leaves a term out.

    Dice and Tversky are means over the classes but the background.
    """

    cross_entropy: float = Field(
        1.0, ge=0, description="weight; categorical with softmax, binary with sigmoid"
    )
    dice: float = Field(1.0, ge=0, description="weight of 1 - Dice")
    tversky: float = Field(0.0, ge=0, description="weight of 1 - Tversky index")
    tversky_beta: float = Field(
        0.7, ge=0, le=1, description="cost of a voxel missed; one too many costs 1 - beta"
    )
    focal: float = Field(0.0, ge=0, description="weight of the focal loss")
    focal_gamma: float = Field(2.0, ge=0, description="the higher, the less easy voxels count")
    adversarial: float = Field(0.0, ge=0, description="weight of what SegAN's critic tells apart")
    critic_channels: int = Field(
        16, ge=1, le=1024, description="of the critic's first layer; doubled at each of the others"
    )
    critic_rate: float = Field(2e-4, gt=0, description="learning rate of the critic")
    boundary: float = Field(
        0.0,
        ge=0,
        description="w0 of the U-Net paper (10 there): voxels between two objects"
        " weigh more in cross-entropy and focal loss",
    )
    boundary_sigma: float = Field(5.0, gt=0, description="voxels over which that weight falls")
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (),
        description="of the voxels of each value of the truth, the background first, in"
        " cross-entropy and focal loss; empty: all alike",
    )
    over_batch: bool = Field(
        default=False, description="Dice and Tversky of all patches as one, not of each"
    )

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if not self.cross_entropy + self.dice + self.tversky + self.focal + self.adversarial:
            raise ValueError(
                "every term has the weight 0; give one of cross_entropy, dice, tversky, focal and"
                " adversarial a weight"
            )
        return self

    @model_validator(mode="after")
    def _weighs_voxels_of_a_term(self) -> Self:
        if (self.boundary or self.class_weights) and not self.cross_entropy + self.focal:
            raise ValueError(
                "boundary and class_weights weigh the voxels of cross_entropy and focal, which are"
                " both 0; give one of them a weight, or drop these"
            )
        return self


class TrainingSpec(SpecModel):
    """The optimisation itself."""

    steps: int = Field(2000, ge=1)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="patches a step of each worker; auto: what network.name auto derives, else 4",
    )
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(0.99, ge=0, lt=1, description="of sgd (Nesterov's)")
    learning_rate: float = Field(3e-3, gt=0, description="the highest of the schedule")
    weight_decay: float = Field(
        1e-2, ge=0, description="L2 of kernels, not of biases and norms; decoupled with adamw"
    )
    schedule: Literal["one_cycle", "cosine", "poly", "constant"] = "one_cycle"
    warmup_share: float = Field(0.15, ge=0, lt=1, description="share of the steps that warm up")
    gradient_clip: float = Field(12.0, gt=0, description="largest norm of the gradient")
    loss: LossSpec = LossSpec()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema_decay: float = Field(0.99, ge=0, lt=1, description="of averaged weights; 0: no averaging")
    foreground_share: Probability = Field(0.5, description="patches centred on a labelled voxel")
    foreground_by: Literal["class", "object"] = Field(
        "class",
        description="what is as likely as any other to be centred on: class: each class, however"
        " rare; object: each connected part of it as well, however small",
    )
    validate_every: int = Field(0, ge=0, description="steps; 0: only at the end")
    validate_volumes: int = Field(8, ge=1, description="held-back Volumes used before the end")
    early_stopping: int = Field(
        0,
        ge=0,
        description="stop after so many validations without a better Dice and keep the best"
        " weights; 0: never",
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    log_every: int = Field(10, ge=1, description="steps between reported losses")
    seed: int = 0

    @property
    def num_patches(self) -> int:
        """`batch_size` as a number."""
        return DEFAULT_BATCH_SIZE if self.batch_size == "auto" else self.batch_size

    @model_validator(mode="after")
    def _can_stop_early(self) -> Self:
        if self.early_stopping and not self.validate_every:
            raise ValueError(
                "early_stopping counts validations: set validate_every, e.g. to 250 steps"
            )
        return self


class WorkerRange(SpecModel):
    """From `min` to `max` processes, as many as there is room for while the training runs."""

    min: int = Field(1, ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _is_ascending(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} must be at most max {self.max}")
        return self


class TrainResourceSpec(SpecModel):
    """The means of a training."""

    workers: Annotated[int, Field(ge=1)] | WorkerRange = Field(
        1,
        description="processes that train together; {min: 1, max: 4}: elastic, from the last"
        " checkpoint on with as many as there is room for",
    )
    cpus_per_worker: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="auto: all, shared evenly"
    )
    gpus_per_worker: float = Field(0.0, ge=0)
    max_failures: int = Field(3, ge=0, description="lost workers that are made up for")
    cache: Bytes = Field(2 * 2**30, ge=0, description="bytes of Volumes a worker keeps in memory")
    readers: int = Field(1, ge=1, description="threads of a worker that read and augment")
    read_ahead: int = Field(4, ge=1, description="batches made ahead of the network")

    @model_validator(mode="after")
    def _shares_no_gpu(self) -> Self:
        if 0 < self.gpus_per_worker < 1 and self.most_workers > 1:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker} with {self.most_workers} workers: NCCL, by"
                " which they agree, refuses two of them on one GPU; give each a whole one, or use"
                " one worker"
            )
        return self

    @property
    def most_workers(self) -> int:
        """As many as there may be."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @property
    def fewest_workers(self) -> int:
        """As many as there must be."""
        return self.workers if isinstance(self.workers, int) else self.workers.min
