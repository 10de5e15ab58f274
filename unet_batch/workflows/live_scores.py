"""LiveScores: Dice of each Volume as soon as it is published, while the Job goes on."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError

from unet_batch.errors import NotFoundError
from unet_batch.monitoring.events import Listener, Scored
from unet_batch.storage.archive import Archive
from unet_batch.workflows.scoring import Score, pair_of, score_here


class LiveScores:
    """Scores Volumes in the background on Ray, and says what came out.

    A Volume without the truth has no score; one whose scoring fails loses only that.
    """

    def __init__(self, archive: Archive, *, labels: str, truth: str | None, listen: Listener):
        self._archive, self._labels, self._truth = archive, labels, truth
        self._listen = listen
        self._pending: list[Any] = []

    def add(self, volume_id: str) -> None:
        """Score a published Volume; says meanwhile what earlier ones reached."""
        if self._truth is None:
            return
        try:
            pair = pair_of(self._archive[volume_id], self._labels, self._truth)
        except NotFoundError:
            return
        self._pending.append(ray.remote(score_here).options(num_cpus=0).remote(pair))
        self._collect(timeout_s=0)

    def finish(self) -> None:
        """Wait for the Volumes that are still being scored."""
        self._collect(timeout_s=None)

    def _collect(self, timeout_s: float | None) -> None:
        if not self._pending:
            return
        done, self._pending = ray.wait(
            self._pending, num_returns=len(self._pending), timeout=timeout_s
        )
        for ref in done:
            for score in _scores(ref):
                self._listen(Scored(score.volume_id, score.class_name, score.dice))


def _scores(ref: Any) -> tuple[Score, ...]:
    try:
        scores: tuple[Score, ...] = ray.get(ref)
    except RayError:
        return ()  # `evaluate` names the reason; here it would only disturb the Job
    return scores
