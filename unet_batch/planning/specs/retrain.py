"""RetrainSpec: which model to train anew on what, and when the result may take its place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unet_batch.planning.model_versions import NAME_PATTERN
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.evaluate import LABELS_PATTERN
from unet_batch.planning.specs.segment import InferenceSpec, ResourceSpec
from unet_batch.planning.specs.train import TrainRecipe
from unet_batch.planning.where import WhereField


class HeldBackSpec(SpecModel):
    """Which Volumes no challenger ever learns from (`planning.retraining`)."""

    share: float = Field(
        0.2, gt=0, lt=1, description="of all patients, or Volumes, by a hash of each"
    )
    by_patient: bool = Field(
        default=True, description="all Volumes of a patient on one side, where DICOM names patients"
    )
    seed: int = 0


class PromotionSpec(SpecModel):
    """When a challenger becomes the champion (`planning.challenge`)."""

    minimum_dice: float = Field(
        0.5, ge=0, le=1, description="mean Dice that the first champion has to reach"
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="largest p of the paired test at which it counts as better"
    )
    margin: float = Field(
        0.02, ge=0, le=1, description="by how much the mean Dice of no class may fall"
    )


class LeaseSpec(SpecModel):
    """One retraining of a model at a time (`storage.lease`)."""

    span_s: float = Field(120.0, gt=0, description="silence after which a holder counts as dead")
    wait_s: float = Field(0.0, ge=0, description="how long a run that lives is waited for")


class RetrainSpec(SpecModel):
    """Train a model anew on what was labelled since, and promote what is better.

    `jobs/retrain.yaml`.
    """

    archive: str
    truth: str = Field(pattern=LABELS_PATTERN, description="name of the Labels to learn")
    model: str = Field(pattern=NAME_PATTERN, description="name of the model in the registry")
    registry: str | None = Field(
        None, description="address of the registry; None: UNET_BATCH_REGISTRY's"
    )
    work: str = Field(
        description="folder for trainings, their checkpoints and reports, which all nodes see"
    )
    volumes: tuple[str, ...] = Field(("*",), description="glob patterns of Volume ids")
    where: WhereField = None
    min_new: int = Field(
        1, ge=0, description="newly labelled Volumes it takes to train; 0: always train"
    )
    held_back: HeldBackSpec = HeldBackSpec()
    train: TrainRecipe = TrainRecipe()
    inference: InferenceSpec = InferenceSpec()
    resources: ResourceSpec = ResourceSpec()
    promotion: PromotionSpec = PromotionSpec()
    published: str | None = Field(
        None, pattern=LABELS_PATTERN, description="Labels that this model makes in the Archive"
    )
    resegment: bool | Literal["list"] = Field(
        "list", description="list: the Volumes whose `published` are older; true: segment them"
    )
    max_pictures: int = Field(6, ge=0, description="most changed Volumes that the report shows")
    channel: int = Field(0, ge=0, description="channel of the scan that the pictures show")
    lease: LeaseSpec = LeaseSpec()
