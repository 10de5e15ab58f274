"""Target and Outcome: where a Volume's labels are to go, and what became of it. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unet_batch.inference.postprocessing import RAW
from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.planning.volume_info import Json
from unet_batch.storage.labels_set import LabelsSet


@dataclass(frozen=True, slots=True)
class Target:
    """Where one Volume's labels go: their writers, and the provenance they are published with.

    `steps` are carried out before that, on labels that wait in a stage until all are there.
    """

    labels: LabelsSet
    provenance: dict[str, Json]
    steps: tuple[PostprocessStep, ...] = ()

    @property
    def written(self) -> LabelsSet:
        """Where labels are written as they come."""
        return self.labels.staged(RAW) if self.steps else self.labels


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one Volume; `seconds` from its first read to its end.

    `is_short`: it was given up where memory ran out, and may pass in smaller Blocks. `nodes` are
    the machines of its `replicas`, `peak_bytes` the most memory that one of those held.
    """

    volume_id: str
    outcome: Literal["done", "quarantined", "cancelled"]
    reason: str
    seconds: float
    replicas: tuple[str, ...]
    is_short: bool = False
    nodes: tuple[str, ...] = ()
    peak_bytes: int = 0
