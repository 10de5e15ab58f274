"""The report as values, and the HTML file they become: one file, no network, no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from urllib.parse import urlsplit, urlunsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unet_batch.evaluation.summary import ScoreSummary
from unet_batch.reporting.figures import DASH, Figure, figures_of
from unet_batch.reporting.pictures import Picture, Rgb
from unet_batch.reporting.plots import MOST_DOTS, Dot, Strip, dice_scale, strip_plot, volume_scale

PLOTTED = {"dice": "Dice", "hd95_mm": "mm", "surface_dice": "share"}
"""Columns of the scores that are plotted, and the unit beside their axis."""

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
    """What one Volume's mask says of one class; without a truth only its volume.

    `volume_ml` is NaN where the mask does not know the class. The scores are those of `Score`.
    """

    legend: LegendEntry
    volume_ml: float
    true_ml: float | None = None
    dice: float | None = None
    hd95_mm: float | None = None
    surface_dice: float | None = None


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """One Volume: its numbers, and its pictures where it was chosen to have any.

    Attributes
    ----------
    rank_value: mean Dice; without a truth the distance from the other Volumes.
    findings: what is odd about the mask, the gravest first; only without a truth.
    """

    volume_id: str
    anchor: str
    facts: tuple[str, ...]
    rank_value: float | None
    classes: tuple[ClassValue, ...]
    pictures: tuple[Picture, ...] = ()
    problem: str = ""
    findings: tuple[str, ...] = ()

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
    summary: ScoreSummary
    volumes: tuple[VolumeEntry, ...]
    num_pictured: int
    plots: tuple[tuple[str, Markup], ...]
    left_out: tuple[tuple[str, str], ...] = field(default=())
    tolerance_mm: float = 1.0
    confidence: float = 0.95
    max_listed: int = 2000

    @property
    def listed(self) -> tuple[VolumeEntry, ...]:
        """The Volumes that the tables have a row for: a browser is slow with many thousands."""
        return self.volumes[: self.max_listed]

    @property
    def figures(self) -> Mapping[str, Figure]:
        """The columns of the scores that there are, in the order they are shown."""
        figures = figures_of(self.tolerance_mm)
        return {name: figure for name, figure in figures.items() if name in self.summary.overall}

    @property
    def num_odd(self) -> int:
        """Volumes that stand out."""
        return sum(bool(volume.findings) for volume in self.volumes)


def render(page: ReportPage) -> str:
    """The page as HTML; every name and value from outside is escaped."""
    return environment().get_template("report.html").render(page=page, most_dots=MOST_DOTS)


def class_plots(
    volumes: Sequence[VolumeEntry],
    legend: Sequence[LegendEntry],
    columns: Sequence[str],
    *,
    tolerance_mm: float = 1.0,
) -> tuple[tuple[str, Markup], ...]:
    """A heading and a plot of every Volume by class for each of `columns` that is plotted."""
    figures = figures_of(tolerance_mm)
    plots = []
    for column in (one for one in columns if one in PLOTTED):
        strips = _strips(volumes, legend, column)
        shown = [dot.value for strip in strips for dot in strip.dots]
        scale = volume_scale(shown) if column == "hd95_mm" else dice_scale(shown)
        name = figures[column].heading.partition(",")[0]
        title = f"{name[0].upper()}{name[1:]} of every volume"
        plots.append((title, strip_plot(strips, scale, unit=PLOTTED[column], title=title)))
    return tuple(plots)


def volume_plot(
    volumes: Sequence[VolumeEntry], legend: Sequence[LegendEntry]
) -> tuple[tuple[str, Markup], ...]:
    """A heading and a plot of the millilitres of every Volume by class."""
    strips = _strips(volumes, legend, "volume_ml")
    scale = volume_scale([dot.value for strip in strips for dot in strip.dots])
    plot = strip_plot(strips, scale, unit="mL", title="Volume by class in mL")
    return (("Class volumes", plot),)


def _strips(
    volumes: Sequence[VolumeEntry], legend: Sequence[LegendEntry], column: str
) -> list[Strip]:
    """One strip a class; dots link to the pictures. What is infinite has no place on an axis."""
    strips = []
    for k, entry in enumerate(legend):
        values = [(getattr(volume.classes[k], column), volume) for volume in volumes]
        dots = (
            Dot(value, volume.volume_id, volume.href)
            for value, volume in values
            if value is not None and isfinite(value)
        )
        strips.append(Strip(entry.name, entry.css, tuple(dots)))
    return strips


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


def environment() -> Environment:
    """What renders the templates of this package; everything from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("unet_batch.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": format_score, "ml": format_ml, "distance": format_distance}
    environment.filters["zip"] = zip
    environment.filters["hd95"] = figures_of(0)["hd95_mm"].text
    return environment
