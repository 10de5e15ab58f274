"""The report as values, and the HTML file they become: one file, no network, no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isnan
from urllib.parse import urlsplit, urlunsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unet_batch.evaluation.scores import ClassSummary
from unet_batch.reporting.pictures import Picture, Rgb
from unet_batch.reporting.plots import Dot, Strip, dice_scale, strip_plot, volume_scale

DASH = "\N{EN DASH}"
MAX_NOTABLE = 8
"""Classes named under the pictures of a Volume; more are a list nobody reads."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A class with the colour its mask has in the pictures."""

    name: str
    color: Rgb

    @property
    def css(self) -> str:
        """The colour as CSS: `#e63c3c`."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


@dataclass(frozen=True, slots=True)
class ClassValue:
    """What one Volume's mask says of one class; `dice` and `true_ml` are None without truth."""

    legend: LegendEntry
    volume_ml: float
    true_ml: float | None = None
    dice: float | None = None


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """One Volume: its numbers, and its pictures where it was chosen to have any.

    `rank_value` is what the list is sorted by: mean Dice, or distance from the other Volumes.
    """

    volume_id: str
    anchor: str
    facts: tuple[str, ...]
    rank_value: float | None
    classes: tuple[ClassValue, ...]
    pictures: tuple[Picture, ...] = ()
    problem: str = ""

    @property
    def href(self) -> str:
        """Where the pictures are on the page; empty where there are none."""
        return f"#{self.anchor}" if self.pictures else ""

    @property
    def notable(self) -> tuple[ClassValue, ...]:
        """The classes to name under the pictures: all, or the worst and largest of many."""
        if len(self.classes) <= MAX_NOTABLE:
            return self.classes
        worst_first = sorted(
            self._held, key=lambda c: (1.0 if c.dice is None else c.dice, -c.volume_ml)
        )
        return tuple(worst_first[:MAX_NOTABLE])

    @property
    def num_unnamed(self) -> int:
        """Classes that the mask or its truth holds beyond the notable ones."""
        return max(len(self._held) - len(self.notable), 0)

    @property
    def _held(self) -> list[ClassValue]:
        return [c for c in self.classes if c.volume_ml > 0 or (c.true_ml or 0) > 0]


@dataclass(frozen=True, slots=True)
class ReportPage:
    """Everything the template shows, in the order it shows it."""

    title: str
    facts: tuple[tuple[str, str], ...]
    made_at: datetime
    has_truth: bool
    legend: tuple[LegendEntry, ...]
    summaries: tuple[ClassSummary, ...]
    mean_dice: float | None
    volumes: tuple[VolumeEntry, ...]
    num_pictured: int
    plot: Markup
    left_out: tuple[tuple[str, str], ...] = field(default=())


def render(page: ReportPage) -> str:
    """The page as HTML; every name and value from outside is escaped."""
    return _environment().get_template("report.html").render(page=page)


def class_plot(
    volumes: Sequence[VolumeEntry], legend: Sequence[LegendEntry], *, has_truth: bool
) -> Markup:
    """Dice, or without truth the millilitres, of every Volume by class; dots link to pictures."""
    strips = []
    for k, entry in enumerate(legend):
        dots = []
        for volume in volumes:
            value = volume.classes[k].dice if has_truth else volume.classes[k].volume_ml
            if value is not None and not isnan(value):
                dots.append(Dot(value, volume.volume_id, volume.href))
        strips.append(Strip(entry.name, entry.css, tuple(dots)))
    shown = [dot.value for strip in strips for dot in strip.dots]
    if has_truth:
        return strip_plot(strips, dice_scale(shown), unit="Dice", title="Dice by class")
    return strip_plot(strips, volume_scale(shown), unit="mL", title="Volume by class in mL")


def without_credentials(url: str) -> str:
    """`url` without the user, password and query that object stores may carry in theirs."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def mean_dice_of(classes: Sequence[ClassValue]) -> float | None:
    """The mean Dice of one Volume over the classes that it or its truth holds."""
    dice = [c.dice for c in classes if c.dice is not None]
    return sum(dice) / len(dice) if dice else None


def format_score(value: float | None) -> str:
    """Three decimals, or a dash where there is no value."""
    return DASH if value is None else f"{value:.3f}"


def format_ml(value: float | None) -> str:
    """Millilitres with three significant digits at least, or a dash."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_distance(value: float | None) -> str:
    """Robust standard deviations from the other Volumes; an empty mask is beyond counting."""
    if value is None:
        return DASH
    return "empty" if value == float("inf") else f"{value:.1f} SD"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("unet_batch.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": format_score, "ml": format_ml, "distance": format_distance}
    environment.filters["zip"] = zip
    return environment
