"""Events: what happens in a Job, said once by whoever does it.

Workflows and the engine emit events; metrics, progress display and Ledger listen. An
event carries durations in seconds, sizes in bytes or voxels, and low-cardinality names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["done", "skipped", "quarantined", "cancelled"]
Stage = Literal["read", "predict", "stitch", "write", "postprocess", "publish"]
RetrainOutcome = Literal["promoted", "kept", "nothing_new", "failed"]
RayJobOutcome = Literal["succeeded", "failed", "refused", "timeout", "deleted", "hung"]


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A Job begins: `kind` is the workflow, `model` the Bundle's name, `dataset` the Archive's."""

    job: str
    kind: str
    model: str
    num_volumes: int
    num_tiles: int = 0
    num_voxels: int = 0
    dataset: str = ""


@dataclass(frozen=True, slots=True)
class StageTimed:
    """A piece of work ended; `seconds` of one worker, with what it moved or made.

    `num_voxels` are voxels of scans; those of `write` count as done while their Volume is still
    under way, so that one large scan moves the progress too. `num_tiles` went through the
    network, `num_skipped` past it, being background. `parts` says where the seconds of
    `predict` went: normalise, forward, accumulate, finish; `peak_rss_bytes` is the worker's,
    `peak_device_bytes` what torch held at most on its GPU.
    """

    stage: Stage
    seconds: float
    num_bytes: int = 0
    num_voxels: int = 0
    num_tiles: int = 0
    num_skipped: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    peak_device_bytes: int = 0


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
class Warned:
    """Something that a person should know, and that stops nothing."""

    text: str


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
class ModelLoaded:
    """The Bundle of the Job, with the Dice it reached where it was trained, by class.

    For a Job with a champion this is the champion's Dice: what live scores are held against.
    """

    dice: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ArchiveChecked:
    """Labels were looked at without a truth: how many Volumes, and how many stand out, by kind.

    Kinds are few and fixed, such as `volume` (class volumes far from the others') or `empty`.
    """

    num_volumes: int
    outliers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NetworkDerived:
    """A training derived its network from the Volumes: what it chose and why, line by line."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One optimiser step of rank 0. Not every step is told: `step` counts all of them."""

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
class StoppedEarly:
    """A training stopped at `step`: since `best_step` no validation had a better Dice."""

    step: int
    best_step: int
    dice: float


@dataclass(frozen=True, slots=True)
class Challenged:
    """Champion and challenger were scored on the same held-back Volumes: mean Dice by class."""

    champion: Mapping[str, float]
    challenger: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RetrainFinished:
    """A retraining reached its decision."""

    outcome: RetrainOutcome


@dataclass(frozen=True, slots=True)
class RayJobFinished:
    """A RayJob that was waited for on Kubernetes ended; `kind` is the workflow it ran."""

    kind: str
    outcome: RayJobOutcome


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
    | Warned
    | VolumeFinished
    | Scored
    | ModelLoaded
    | ArchiveChecked
    | NetworkDerived
    | TrainStep
    | Validated
    | StoppedEarly
    | Challenged
    | RetrainFinished
    | RayJobFinished
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
