"""LiveScores: Dice of each Volume soon after it is published, while the Job goes on.

The driver only notes which Volumes are done. They are looked up and scored a few together by
tasks, since to ask a store for each would hold up the Job's one loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from math import nan
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError

from unet_batch.errors import UnetBatchError
from unet_batch.evaluation.measuring import Scoring
from unet_batch.evaluation.scores import Score
from unet_batch.inference.reading import IO_CPUS
from unet_batch.monitoring.events import Event, Listener, Scored, VolumeFinished
from unet_batch.side_by_side import each
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.stores import is_far
from unet_batch.workflows.pairs import find_pair
from unet_batch.workflows.scoring import score_pair

MOST_TOGETHER = 32  # Volumes that one task scores
FAR_AT_ONCE = 8  # of them, where a store answers late; each holds a Shard of two masks
WAIT_S = 1.0  # for more of them, and between two looks at what has been scored

_DICE = Scoring(metrics=("dice",))


class LiveScores:
    """A Listener that scores Volumes on Ray when they are done, and says what came out.

    A Volume without the truth has no score; one whose scoring fails loses only that.
    """

    def __init__(self, archive: Archive, *, labels: str, truth: str, listen: Listener) -> None:
        self._arguments, self._listen = (archive.url, labels, truth), listen
        self._score: Any = ray.remote(num_cpus=IO_CPUS)(score_stored)
        self._waiting: list[str] = []
        self._pending: list[Any] = []
        self._looked_at = monotonic()

    def __call__(self, event: Event) -> None:
        """Note a Volume that is done; begin to score those noted, and say what others reached."""
        if isinstance(event, VolumeFinished) and event.outcome == "done":
            self._waiting.append(event.volume_id)
        is_due = monotonic() - self._looked_at >= WAIT_S
        if is_due or len(self._waiting) >= MOST_TOGETHER:
            self._begin()
        if is_due:
            self._looked_at = monotonic()
            self._collect(timeout_s=0)

    def finish(self) -> None:
        """Score those that are left, and wait for all."""
        self._begin()
        self._collect(timeout_s=None)

    def _begin(self) -> None:
        if self._waiting:
            self._pending.append(self._score.remote(self._waiting, *self._arguments))
            self._waiting = []

    def _collect(self, timeout_s: float | None) -> None:
        if not self._pending:
            return
        number = len(self._pending)
        done, self._pending = ray.wait(self._pending, num_returns=number, timeout=timeout_s)
        for score in (score for ref in done for score in _scores(ref)):
            dice = nan if score.dice is None else score.dice
            self._listen(Scored(score.volume_id, score.class_name, dice))


def score_stored(
    volume_ids: Sequence[str], archive_url: str, labels: str, truth: str
) -> list[Score]:
    """The Dice of each Volume's classes; none of one without the truth, or that fails.

    `evaluate` names those: a Job goes on.
    """
    score = partial(_score, open_archive(archive_url), labels=labels, truth=truth)
    found = each(score, volume_ids, at_once=FAR_AT_ONCE if is_far(archive_url) else False)
    return [one for scores in found for one in scores]


def _score(archive: Archive, volume_id: str, *, labels: str, truth: str) -> tuple[Score, ...]:
    try:
        return score_pair(find_pair(archive, volume_id, labels, truth), _DICE).scores
    except UnetBatchError:
        return ()


def _scores(ref: Any) -> Iterable[Score]:
    try:
        scored: list[Score] = ray.get(ref)
    except RayError:
        return ()
    return scored
