"""How good the masks are: live Dice, what the model reached before, Volumes that stand out."""

from __future__ import annotations

from math import isnan

from unet_batch.monitoring.events import ArchiveChecked, Event, JobStarted, ModelLoaded, Scored
from unet_batch.monitoring.series import Series

DICE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
"""Finer where good models differ."""


class QualityFamilies:
    """A Listener: Dice by class, the model's own Dice, outliers by kind."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._sums: dict[str, tuple[int, float]] = {}
        self._scores = series.histogram(
            "dice", "Dice of the Volumes scored, by class.", "class", buckets=DICE_BUCKETS
        )
        self._mean_dice = series.gauge(
            "dice_mean", "Mean Dice of the Volumes scored so far.", "class"
        )
        self._model_dice = series.gauge(
            "model_dice", "Dice the model reached on Volumes held back from its training.", "class"
        )
        self._checked = series.gauge("checked_volumes", "Volumes looked at without a truth.")
        self._outliers = series.gauge(
            "outlier_volumes", "Volumes that stand out from the others, by kind.", "kind"
        )

    def __call__(self, event: Event) -> None:
        """Add one event."""
        of = self._series.of
        match event:
            case JobStarted():
                self._sums.clear()
            case Scored() if not isnan(event.dice):
                self._add_score(event)
            case ModelLoaded():
                for name, dice in event.dice.items():
                    of(self._model_dice, name).set(dice)
            case ArchiveChecked():
                of(self._checked).set(event.num_volumes)
                for kind, number in event.outliers.items():
                    of(self._outliers, kind).set(number)

    def _add_score(self, event: Scored) -> None:
        count, total = self._sums.get(event.class_name, (0, 0.0))
        self._sums[event.class_name] = count, total = count + 1, total + event.dice
        self._series.of(self._scores, event.class_name).observe(event.dice)
        self._series.of(self._mean_dice, event.class_name).set(total / count)
