"""The report of a retraining: champion and challenger side by side, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from unet_batch.reporting.page import LegendEntry, environment
from unet_batch.reporting.pictures import Picture
from unet_batch.reporting.plots import Dot, Scale, Strip, strip_plot

PLOTTED_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """Mean Dice of one class; `champion` is None where there is none yet."""

    legend: LegendEntry
    champion: float | None
    challenger: float | None

    @property
    def difference(self) -> float | None:
        """Challenger less champion."""
        if self.champion is None or self.challenger is None:
            return None
        return self.challenger - self.champion


@dataclass(frozen=True, slots=True)
class ChangedVolume:
    """One held-back Volume: mean Dice of both, by class the differences, and both masks' pictures.

    Without a champion there are no differences and no pictures of its mask.
    """

    volume_id: str
    anchor: str
    champion: float | None
    challenger: float
    differences: tuple[float | None, ...] = ()
    champion_pictures: tuple[Picture, ...] = ()
    challenger_pictures: tuple[Picture, ...] = ()
    problem: str = ""

    @property
    def difference(self) -> float | None:
        """Challenger less champion."""
        return None if self.champion is None else self.challenger - self.champion

    @property
    def href(self) -> str:
        """Where the pictures are on the page; empty where there are none."""
        return f"#{self.anchor}" if self.challenger_pictures else ""


@dataclass(frozen=True, slots=True)
class ChallengePage:
    """Everything the template shows. Volumes come in the order in which they are shown.

    `champion` is empty where there is none yet; then `difference`, its `interval` and `p_value`
    are None.
    """

    challenger: str
    champion: str
    is_promoted: bool
    reasons: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    made_at: datetime
    classes: tuple[ClassRow, ...]
    volumes: tuple[ChangedVolume, ...]
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """Which versions the page is about."""
        against = f" against {self.champion}" if self.champion else ", the first champion?"
        return f"{self.challenger}{against}"

    @property
    def plot(self) -> Markup:
        """The differences of every Volume, by class."""
        return difference_plot(self.classes, self.volumes)

    @property
    def num_pictured(self) -> int:
        """Volumes with pictures."""
        return sum(bool(one.challenger_pictures) for one in self.volumes)


def render_challenge(page: ChallengePage) -> str:
    """The page as HTML; every name and value from outside is escaped."""
    templates = environment()
    templates.filters["signed"] = format_signed
    return templates.get_template("challenge.html").render(page=page)


def difference_plot(classes: Sequence[ClassRow], volumes: Sequence[ChangedVolume]) -> Markup:
    """A strip of dots for each class, one a Volume: right of zero the challenger is better."""
    strips = []
    for k, row in enumerate(classes):
        dots = tuple(
            Dot(value, one.volume_id, one.href)
            for one in volumes
            if (value := one.differences[k] if k < len(one.differences) else None) is not None
        )
        strips.append(Strip(row.legend.name, row.legend.css, dots))
    scale = difference_scale([dot.value for strip in strips for dot in strip.dots])
    title = "Dice of the challenger less that of the champion"
    return strip_plot(strips, scale, unit="difference", title=title)


def difference_scale(values: Sequence[float]) -> Scale:
    """As far to the left of zero as to the right, with two to four ticks on either side."""
    largest = max((abs(value) for value in values), default=0.0)
    step = next((one for one in PLOTTED_STEPS if one * 4 >= largest), PLOTTED_STEPS[-1])
    count = max(2, -int(-largest // step))
    ticks = tuple(round(k * step, 2) for k in range(-count, count + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def format_signed(value: float | None) -> str:
    """Three decimals with their sign, or a dash where there is no value."""
    return "\N{EN DASH}" if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
