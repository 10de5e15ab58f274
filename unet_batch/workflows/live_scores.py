"""LiveScores: Dice of each Volume as soon as it is published, while the Job goes on."""

from __future__ import annotations

from math import nan
from typing import Any

import ray
from ray.exceptions import RayError

from unet_batch.errors import UnetBatchError
from unet_batch.evaluation.measuring import Scoring
from unet_batch.evaluation.scores import Score
from unet_batch.inference.reading import IO_CPUS
from unet_batch.monitoring.events import Event, Listener, Scored, VolumeFinished
from unet_batch.storage.archive import Archive
from unet_batch.workflows.pairs import pair_of
from unet_batch.workflows.scoring import ScoredVolume, score_pair

_DICE = Scoring(metrics=("dice",))


class LiveScores:
    """A Listener that scores Volumes on Ray when they are done, and says what came out.

    A Volume without the truth has no score; one whose scoring fails loses only that.
    """

    def __init__(self, archive: Archive, *, labels: str, truth: str, listen: Listener) -> None:
        self._archive, self._labels, self._truth = archive, labels, truth
        self._listen = listen
        self._score: Any = ray.remote(num_cpus=IO_CPUS)(score_pair)
        self._pending: list[Any] = []

    def __call__(self, event: Event) -> None:
        """Begin to score a Volume that is done; say what earlier ones reached."""
        if isinstance(event, VolumeFinished) and event.outcome == "done":
            self._begin(event.volume_id)
            self._collect(timeout_s=0)

    def finish(self) -> None:
        """Wait for the Volumes that are still being scored."""
        self._collect(timeout_s=None)

    def _begin(self, volume_id: str) -> None:
        volume = self._archive[volume_id]
        try:
            pair = pair_of(volume.info, volume.labels, self._labels, self._truth)
        except UnetBatchError:
            return  # no truth, or none that fits: `evaluate` names it, the Job goes on
        self._pending.append(self._score.remote(pair, _DICE))

    def _collect(self, timeout_s: float | None) -> None:
        if not self._pending:
            return
        number = len(self._pending)
        done, self._pending = ray.wait(self._pending, num_returns=number, timeout=timeout_s)
        for score in (score for ref in done for score in _scores(ref)):
            dice = nan if score.dice is None else score.dice
            self._listen(Scored(score.volume_id, score.class_name, dice))


def _scores(ref: Any) -> tuple[Score, ...]:
    try:
        scored: ScoredVolume = ray.get(ref)
    except RayError:
        return ()
    return scored.scores
