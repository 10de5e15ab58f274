"""Tally: the running sums of one Job, from which rates, shares and the time left follow.

Pure but for the clock it is given, so that every figure the display and the metrics show
can be tested without waiting.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isnan

from unet_batch.monitoring.causes import Cause, cause_of
from unet_batch.monitoring.events import (
    Event,
    JobFinished,
    JobStarted,
    Outcome,
    QueueChanged,
    ReplicaLost,
    Scored,
    Stage,
    StageTimed,
    TrainStep,
    Validated,
    VolumeFinished,
)

RATE_WINDOW_S = 60.0
"""The present speed is the mean over the last minute: longer than a Block, shorter than a stall."""

KEPT_FAILURES = 3
MAX_REASON = 300
"""Characters of a failure's reason that a view needs; the Ledger has all of it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A Volume that was quarantined, and why."""

    volume_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A Job at one moment. Times in seconds; `share_done` from 0 to 1; None where unknown.

    `causes` counts the quarantined Volumes by kind of reason.
    """

    job: str = ""
    kind: str = ""
    model: str = ""
    num_volumes: int = 0
    outcomes: Mapping[Outcome, int] = field(default_factory=dict)
    num_voxels: int = 0
    voxels_per_second: float = 0.0
    elapsed_s: float = 0.0
    seconds_left: float | None = None
    share_done: float | None = None
    stage_seconds: Mapping[Stage, float] = field(default_factory=dict)
    in_flight: Mapping[str, int] = field(default_factory=dict)
    replicas_busy: int = 0
    replicas_idle: int = 0
    replicas_lost: int = 0
    last_failures: tuple[Failure, ...] = ()
    causes: Mapping[Cause, int] = field(default_factory=dict)
    mean_dice: float | None = None
    training: TrainStep | None = None
    validated: Validated | None = None
    is_finished: bool = False

    @property
    def num_done(self) -> int:
        """Volumes whose result is there, made now or before."""
        return self.outcomes.get("done", 0) + self.outcomes.get("skipped", 0)

    @property
    def volumes_left(self) -> int:
        """Volumes without an outcome so far."""
        return max(self.num_volumes - sum(self.outcomes.values()), 0)


class Tally:
    """A Listener that sums the events of one Job; `progress()` may be asked from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begin(JobStarted(job="", kind="", model="", num_volumes=0), started=None)

    def _begin(self, event: JobStarted, *, started: float | None) -> None:
        """Forget what came before: another Job begins, as the stages of a demo do."""
        self._job, self._started = event, started
        self._finished: float | None = None
        self._outcomes: Counter[Outcome] = Counter()
        self._stage_seconds: defaultdict[Stage, float] = defaultdict(float)
        self._voxels_written = 0
        self._voxels_done = 0
        self._voxels_given_up = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._queue = QueueChanged()
        self._replicas_lost = 0
        self._failures: deque[Failure] = deque(maxlen=KEPT_FAILURES)
        self._causes: Counter[Cause] = Counter()
        self._dice_sum = 0.0
        self._dice_count = 0
        self._training: TrainStep | None = None
        self._validated: Validated | None = None

    def __call__(self, event: Event) -> None:
        """Add one event."""
        with self._lock:
            self._add(event)

    def progress(self) -> Progress:
        """The Job as it stands now."""
        with self._lock:
            now = self._clock() if self._finished is None else self._finished
            elapsed = max(now - self._started, 0.0) if self._started is not None else 0.0
            share = self._share_done()
            return Progress(
                job=self._job.job,
                kind=self._job.kind,
                model=self._job.model,
                num_volumes=self._job.num_volumes,
                outcomes=dict(self._outcomes),
                num_voxels=self._num_voxels,
                voxels_per_second=self._rate(now, elapsed),
                elapsed_s=elapsed,
                seconds_left=self._seconds_left(elapsed, share),
                share_done=share,
                stage_seconds=dict(self._stage_seconds),
                in_flight=dict(self._queue.in_flight),
                replicas_busy=self._queue.replicas_busy,
                replicas_idle=self._queue.replicas_idle,
                replicas_lost=self._replicas_lost,
                last_failures=tuple(self._failures),
                causes=dict(self._causes),
                mean_dice=self._dice_sum / self._dice_count if self._dice_count else None,
                training=self._training,
                validated=self._validated,
                is_finished=self._finished is not None,
            )

    @property
    def num_voxels(self) -> int:
        """Voxels done so far; never falls."""
        with self._lock:
            return self._num_voxels

    @property
    def _num_voxels(self) -> int:
        """Voxels done: as they are written, and never less than those of finished Volumes."""
        return max(self._voxels_written, self._voxels_done)

    def _add(self, event: Event) -> None:
        before = self._num_voxels
        match event:
            case JobStarted():
                self._begin(event, started=self._clock())
                return
            case StageTimed():
                self._stage_seconds[event.stage] += event.seconds
                self._voxels_written += event.num_voxels if event.stage == "write" else 0
            case VolumeFinished():
                self._finish_volume(event)
            case QueueChanged():
                self._queue = event
            case ReplicaLost():
                self._replicas_lost += 1
            case JobFinished():
                self._finished = self._clock()
            case Scored() | TrainStep() | Validated():
                self._add_quality(event)
        if self._num_voxels > before:
            self._recent.append((self._clock(), self._num_voxels - before))

    def _add_quality(self, event: Scored | TrainStep | Validated) -> None:
        match event:
            case Scored(dice=dice) if not isnan(dice):
                self._dice_sum += dice
                self._dice_count += 1
            case TrainStep():
                self._training = event
            case Validated():
                self._validated = event

    def _finish_volume(self, event: VolumeFinished) -> None:
        self._outcomes[event.outcome] += 1
        if event.outcome == "done":
            self._voxels_done += event.num_voxels
        else:
            self._voxels_given_up += event.num_voxels
        if event.outcome == "quarantined":
            self._failures.append(Failure(event.volume_id, event.reason[:MAX_REASON]))
            self._causes[cause_of(event.reason)] += 1

    def _rate(self, now: float, elapsed: float) -> float:
        if self._finished is not None:
            return self._num_voxels / elapsed if elapsed > 0 else 0.0
        while self._recent and self._recent[0][0] < now - RATE_WINDOW_S:
            self._recent.popleft()
        span = min(elapsed, RATE_WINDOW_S)
        return sum(voxels for _, voxels in self._recent) / span if span > 0 else 0.0

    def _share_done(self) -> float | None:
        """Of optimiser steps, else of voxels (large Volumes count for more), else of Volumes."""
        if self._training is not None:
            return min(self._training.step / max(self._training.num_steps, 1), 1.0)
        if self._job.num_volumes and sum(self._outcomes.values()) >= self._job.num_volumes:
            return 1.0
        if self._job.num_voxels:
            settled = self._num_voxels + self._voxels_given_up
            return min(settled / self._job.num_voxels, 1.0)
        if self._job.num_volumes:
            return sum(self._outcomes.values()) / self._job.num_volumes
        return None

    def _seconds_left(self, elapsed: float, share: float | None) -> float | None:
        if self._finished is not None or share == 1.0:
            return 0.0
        worked = self._worked_share(share)
        if share is None or not worked or elapsed <= 0:
            return None
        return elapsed * (1.0 - share) / worked

    def _worked_share(self, share: float | None) -> float | None:
        """The share that took time: what was skipped or given up took next to none."""
        if share is None or self._training is not None or not self._job.num_voxels:
            return share
        return self._num_voxels / self._job.num_voxels
