"""TrackingSpec: who else is told of a training while it goes on."""

from __future__ import annotations

from pydantic import Field

from unet_batch.planning.specs.base import SpecModel


class TrackingSpec(SpecModel):
    """Where a training's curves go beside the Bundle's own pictures of them."""

    tensorboard: bool = Field(
        default=True, description="event files in the Bundle's `logs/`, as the training goes on"
    )
    mlflow: str | None = Field(
        None,
        min_length=1,
        description="MLflow's tracking address, such as http://mlflow:5000 or file:runs; needs"
        " the extra `mlflow`. None: not told",
    )
    experiment: str = Field("unet-batch", min_length=1, description="of MLflow")
