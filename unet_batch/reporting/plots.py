"""Plots as inline SVG: a strip of dots and a box for each class, coloured by the page's CSS.

    liver   ·  ·   · ▕▔▔│▔▏ ·          one dot a Volume (its title and link name it),
    spleen      ·  ··▕▔│▔▔▏ ··         a box from the lower to the upper quartile,
           0.6     0.8     1.0         a line at the median

Names come from outside: they enter only through `Markup.format`, which escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

ROW_HEIGHT, AXIS_HEIGHT = 44, 30
MANY_STRIPS, LOW_ROW_HEIGHT = 12, 24
LABEL_WIDTH, PLOT_WIDTH, MARGIN = 150, 690, 20
DOT_RADIUS = 3.2
FEWEST_FOR_BOX = 4
MOST_DOTS, EXTREME_DOTS = 1500, 250
_MAX_LABEL = 20


@dataclass(frozen=True, slots=True)
class Dot:
    """One Volume in a strip: its value, its name, and the fragment (`#v3`) it links to."""

    value: float
    name: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """The values of one class; `color` is a CSS colour."""

    label: str
    color: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis from `low` to `high` with `ticks`, in the values' own unit."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def x(self, value: float) -> float:
        """The SVG's x coordinate of `value`."""
        share = (value - self.low) / (self.high - self.low)
        return LABEL_WIDTH + share * PLOT_WIDTH


def dice_scale(values: Sequence[float]) -> Scale:
    """From the tenth below the least value to 1, so that close scores can be told apart."""
    low = math.floor(min(values, default=0.0) * 10 - 0.25) / 10
    low = min(max(low, 0.0), 0.9)
    step = 0.1 if low < 0.8 else 0.02 if low >= 0.9 else 0.05
    count = round((1.0 - low) / step)
    return Scale(low, 1.0, tuple(round(low + k * step, 2) for k in range(count + 1)))


def volume_scale(values: Sequence[float]) -> Scale:
    """From 0 to above the largest value, in steps of 1, 2 or 5 times a power of ten."""
    high = max(values, default=0.0) or 1.0
    power = 10.0 ** math.floor(math.log10(high / 4))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= high / 6)
    count = math.ceil(high / step)
    return Scale(0.0, count * step, tuple(k * step for k in range(count + 1)))


def strip_plot(strips: Sequence[Strip], scale: Scale, *, unit: str, title: str) -> Markup:
    """The strips above one axis, as an accessible, scaling `<svg>` element."""
    row = ROW_HEIGHT if len(strips) <= MANY_STRIPS else LOW_ROW_HEIGHT
    width = LABEL_WIDTH + PLOT_WIDTH + MARGIN
    height = len(strips) * row + AXIS_HEIGHT
    parts = [_axis(scale, len(strips) * row, unit)]
    parts += [_strip(strip, scale, (k + 0.5) * row, row / 3) for k, strip in enumerate(strips)]
    return Markup(
        '<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
        "{content}</svg>"
    ).format(width=width, height=height, title=title, content=Markup("").join(parts))


def _axis(scale: Scale, bottom: int, unit: str) -> Markup:
    line = Markup('<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom}"/>')
    label = Markup('<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>')
    marks = [line.format(x=scale.x(tick), bottom=bottom) for tick in scale.ticks]
    marks += [label.format(x=scale.x(t), y=bottom + 18, text=f"{t:g}") for t in scale.ticks]
    name = Markup('<text class="tick" x="{x}" y="{y}" text-anchor="end">{unit}</text>')
    marks.append(name.format(x=LABEL_WIDTH - 24, y=bottom + 18, unit=unit))
    return Markup("").join(marks)


def _strip(strip: Strip, scale: Scale, middle: float, half_height: float) -> Markup:
    label = Markup(
        '<text class="label" x="{x}" y="{y}" text-anchor="end">{text}<title>{name}</title></text>'
    ).format(x=LABEL_WIDTH - 24, y=middle + 4, text=_shorten(strip.label), name=strip.label)
    if not strip.dots:
        empty = Markup('<text class="tick" x="{x}" y="{y}">in no volume</text>')
        return label + empty.format(x=LABEL_WIDTH + 8, y=middle + 4)
    quartiles = np.percentile([dot.value for dot in strip.dots], [25, 50, 75])
    low, median, high = (scale.x(float(value)) for value in quartiles)
    top, height = middle - half_height, 2 * half_height
    box = Markup('<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>')
    line = Markup('<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{to:.1f}"/>')
    drawn = _thinned(strip.dots)
    parts = [_dot(dot, scale, middle, half_height, k) for k, dot in enumerate(drawn)]
    if len(strip.dots) >= FEWEST_FOR_BOX:
        # The median lies over the dots, or a crowd of them would hide it.
        parts.insert(0, box.format(x=low, y=top, w=max(high - low, 1.0), h=height))
        parts.append(line.format(x=median, y=top - 2, to=top + height + 2))
    parts.insert(0, label)
    group = Markup('<g fill="{color}">{content}</g>')
    return group.format(color=strip.color, content=Markup("").join(parts))


def _thinned(dots: Sequence[Dot]) -> Sequence[Dot]:
    """At most MOST_DOTS of them: the lowest, the highest, and of the others every so many."""
    if len(dots) <= MOST_DOTS:
        return dots
    by_value = sorted(dots, key=lambda dot: dot.value)
    inner = by_value[EXTREME_DOTS:-EXTREME_DOTS]
    places = np.linspace(0, len(inner) - 1, MOST_DOTS - 2 * EXTREME_DOTS).astype(int)
    return [*by_value[:EXTREME_DOTS], *(inner[k] for k in places), *by_value[-EXTREME_DOTS:]]


def _dot(dot: Dot, scale: Scale, middle: float, half_height: float, number: int) -> Markup:
    # A fixed low-discrepancy spread keeps equal values apart and the file reproducible.
    y = middle + ((number * 0.618034 + 0.5) % 1.0 * 2 - 1) * half_height * 0.8
    circle = Markup(
        '<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{r}"><title>{text}</title></circle>'
    ).format(x=scale.x(dot.value), y=y, r=DOT_RADIUS, text=f"{dot.name}: {dot.value:.3g}")
    if not dot.href:
        return circle
    return Markup('<a href="{href}">{circle}</a>').format(href=dot.href, circle=circle)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
