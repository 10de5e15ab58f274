"""DemoSpec: the whole life of a model in one command."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.specs.recipe import AugmentationSpec, TrainingSpec, TrainResourceSpec
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.specs.train import NetworkSpec, SplitSpec


class DemoSpec(SpecModel):
    """Ingest, train, segment, evaluate and report in one go: `jobs/demo.yaml`."""

    data: str | None = Field(
        None, description="folder with images/ and labels/, files of the same names; None: phantoms"
    )
    out: str = Field("unet-batch-demo", description="folder for Archive, Bundle, masks and report")
    num_phantoms: int = Field(20, ge=4, description="phantom scans to make where data is None")
    seed: int = Field(0, description="of the phantoms")
    split: SplitSpec = SplitSpec()
    network: NetworkSpec = NetworkSpec(arguments={"channels": [16, 32, 64, 128]})
    roi: tuple[int, int, int] | Literal["auto"] = Field(
        "auto", description="auto: the median scan, at most 64 voxels a side"
    )
    intensity: IntensitySpec = IntensitySpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    training: TrainingSpec = TrainingSpec(steps=1300, learning_rate=6e-3, ema_decay=0.995)
    phantom_steps: int = Field(
        400, ge=1, description="training.steps where data is None: phantoms are easily learnt"
    )
    resources: TrainResourceSpec = TrainResourceSpec()
    inference: InferenceSpec = InferenceSpec()
