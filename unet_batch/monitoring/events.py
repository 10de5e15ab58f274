"""Events: what happens in a Job, said once by whoever does it.

Workflows and the engine emit events; metrics, progress display and Ledger listen. An
event carries durations in seconds, sizes in bytes or voxels, and low-cardinality names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["done", "skipped", "quarantined", "cancelled"]
Stage = Literal["read", "predict", "stitch", "write", "publish"]


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A Job begins: `kind` is the workflow, `model` the Bundle's name."""

    job: str
    kind: str
    model: str
    num_volumes: int
    num_tiles: int = 0
    num_voxels: int = 0


@dataclass(frozen=True, slots=True)
class StageTimed:
    """A piece of work ended; `seconds` of one worker, with what it moved or made.

    `num_voxels` are voxels of scans; those of `write` count as done while their Volume is still
    under way, so that one large scan moves the progress too. `parts` says where the seconds of
    `predict` went: normalise, forward, accumulate, finish; `peak_rss_bytes` is the worker's.
    """

    stage: Stage
    seconds: float
    num_bytes: int = 0
    num_voxels: int = 0
    num_tiles: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """Work in flight by stage, and Replicas busy and idle, after each decision."""

    in_flight: Mapping[str, int] = field(default_factory=dict)
    replicas_busy: int = 0
    replicas_idle: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaLost:
    """A Replica died; `reason` is what Ray said."""

    reason: str


@dataclass(frozen=True, slots=True)
class VolumeFinished:
    """One Volume reached its outcome; `reason` says why where it is not done."""

    volume_id: str
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    num_voxels: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """Dice of one class of one Volume (NaN where neither mask nor truth has it)."""

    volume_id: str
    class_name: str
    dice: float


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One optimiser step of rank 0."""

    step: int
    num_steps: int
    loss: float
    learning_rate: float
    step_seconds: float
    data_wait_seconds: float


@dataclass(frozen=True, slots=True)
class Validated:
    """Mean Dice on the held-back Volumes after `step` steps."""

    step: int
    dice: float


@dataclass(frozen=True, slots=True)
class JobFinished:
    """A Job ended, whatever its outcome."""

    job: str
    seconds: float


Event = (
    JobStarted
    | StageTimed
    | QueueChanged
    | ReplicaLost
    | VolumeFinished
    | Scored
    | TrainStep
    | Validated
    | JobFinished
)
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A Listener that hears nothing: the default where nobody watches."""


def fan_out(*listeners: Listener) -> Listener:
    """One Listener that tells each of `listeners` in turn."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
