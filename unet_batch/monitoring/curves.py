"""Curves: what a training said of itself, step by step, kept for pictures and for other tools.

A step that is told twice, because a worker was lost and went on from a checkpoint, counts as it
was told last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unet_batch.monitoring.events import Event, TrainStep, Validated

Point = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Curves:
    """Values by optimiser step, in order; names as in the files made of them."""

    loss: tuple[Point, ...] = ()
    learning_rate: tuple[Point, ...] = ()
    step_seconds: tuple[Point, ...] = ()
    data_wait_seconds: tuple[Point, ...] = ()
    dice: tuple[Point, ...] = ()

    def named(self) -> dict[str, tuple[Point, ...]]:
        """Every curve by its name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def csv(self) -> str:
        """A row for each step that has any value; cells without one are empty."""
        named = {name: dict(points) for name, points in self.named().items()}
        steps = sorted({step for points in named.values() for step in points})
        rows = (
            ",".join([str(step), *(f"{p[step]:.8g}" if step in p else "" for p in named.values())])
            for step in steps
        )
        return "\n".join([",".join(["step", *named]), *rows]) + "\n"


class CurveRecorder:
    """A Listener that remembers the curves of one training."""

    def __init__(self) -> None:
        self._steps: dict[int, TrainStep] = {}
        self._dice: dict[int, float] = {}

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case TrainStep():
                self._steps[event.step] = event
            case Validated():
                self._dice[event.step] = event.dice

    def curves(self, losses: Iterable[Point] = (), dice: Iterable[Point] = ()) -> Curves:
        """The curves so far; `losses` and `dice` of an earlier run fill what was not heard."""
        steps = [self._steps[step] for step in sorted(self._steps)]
        return Curves(
            loss=_filled(((one.step, one.loss) for one in steps), losses),
            learning_rate=tuple((one.step, one.learning_rate) for one in steps),
            step_seconds=tuple((one.step, one.step_seconds) for one in steps),
            data_wait_seconds=tuple((one.step, one.data_wait_seconds) for one in steps),
            dice=_filled(self._dice.items(), dice),
        )


def _filled(heard: Iterable[Point], earlier: Iterable[Point]) -> tuple[Point, ...]:
    return tuple(sorted((dict(earlier) | dict(heard)).items()))
