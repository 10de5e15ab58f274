"""A training's curves as one standalone SVG: loss, Dice, learning rate and time of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

Point = tuple[int, float]

PANEL_WIDTH, PANEL_HEIGHT = 430, 190
LEFT, RIGHT, TOP, BOTTOM, HEAD = 62, 18, 34, 34, 44
MAX_POINTS = 400
"""Points of a line that are drawn; of more, each stands for the mean of its neighbours."""

LINE, SECOND = "#2f6fbd", "#e0913a"

_PAGE = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
    'height="{height}" font-family="system-ui, sans-serif" font-size="12" role="img" '
    'aria-label="{title}"><rect width="100%" height="100%" fill="white"/>'
    '<text x="16" y="28" font-size="16" font-weight="600" fill="#1d2026">{title}</text>'
    "{panels}</svg>\n"
)
_TEXT = Markup('<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{text}</text>')
_GRID = Markup('<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4df"/>')
_PATH = Markup('<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"/>')
_DOT = Markup('<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{color}"/>')


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel."""

    name: str
    points: tuple[Point, ...]
    color: str = LINE


@dataclass(frozen=True, slots=True)
class _Axes:
    """From values to places within a panel."""

    steps: int
    low: float
    high: float

    def x(self, step: float) -> float:
        return LEFT + (PANEL_WIDTH - LEFT - RIGHT) * step / max(self.steps, 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return PANEL_HEIGHT - BOTTOM - (PANEL_HEIGHT - TOP - BOTTOM) * share


def curves_svg(title: str, curves: Mapping[str, tuple[Point, ...]]) -> str:
    """The four panels as an SVG document.

    `curves` are values by step, in order, by the names of `monitoring.curves.Curves`.
    """
    cap = _cap(curves["step_seconds"])
    panels = (
        ("loss", [Line("loss", curves["loss"])]),
        ("Dice on held-back volumes", [Line("Dice", curves["dice"])]),
        ("learning rate", [Line("learning rate", curves["learning_rate"])]),
        (
            "ms a step (peaks cut)",
            [
                Line("whole step", _milliseconds(curves["step_seconds"], cap)),
                Line(
                    "waiting for patches", _milliseconds(curves["data_wait_seconds"], cap), SECOND
                ),
            ],
        ),
    )
    steps = max((points[-1][0] for points in curves.values() if points), default=1)
    drawn = Markup("").join(
        Markup('<g transform="translate({x} {y})">{content}</g>').format(
            x=k % 2 * PANEL_WIDTH, y=HEAD + k // 2 * PANEL_HEIGHT, content=_panel(*one, steps)
        )
        for k, one in enumerate(panels)
    )
    size = {"width": 2 * PANEL_WIDTH, "height": HEAD + 2 * PANEL_HEIGHT + 6}
    return str(_PAGE.format(title=title, panels=drawn, **size))


def _panel(title: str, lines: Sequence[Line], steps: int) -> Markup:
    lines = [Line(one.name, _thinned(one.points), one.color) for one in lines]
    values = [value for one in lines for _, value in one.points]
    head = _TEXT.format(x=LEFT, y=20, anchor="start", fill="#1d2026", text=title)
    if not values:
        nothing = _TEXT.format(
            x=LEFT, y=PANEL_HEIGHT / 2, anchor="start", fill="#666c77", text="none"
        )
        return head + nothing
    ticks = _ticks(min(values), max(values))
    axes = _Axes(steps, ticks[0], ticks[-1])
    parts = [head, *(_tick(axes, tick) for tick in ticks), _steps(axes)]
    parts += [_line(axes, one) for one in lines if one.points]
    if len(lines) > 1:
        parts.append(_names(lines))
    return Markup("").join(parts)


def _tick(axes: _Axes, value: float) -> Markup:
    y = axes.y(value)
    line = _GRID.format(x1=LEFT, x2=PANEL_WIDTH - RIGHT, y=y)
    text = _TEXT.format(x=LEFT - 8, y=y + 4, anchor="end", fill="#666c77", text=f"{value:.4g}")
    return line + text


def _steps(axes: _Axes) -> Markup:
    """The first, middle and last step under the panel."""
    y = PANEL_HEIGHT - BOTTOM + 18
    places = ((0, "start"), (axes.steps // 2, "middle"), (axes.steps, "end"))
    return Markup("").join(
        _TEXT.format(x=axes.x(step), y=y, anchor=anchor, fill="#666c77", text=f"{step:,}")
        for step, anchor in places
    )


def _line(axes: _Axes, line: Line) -> Markup:
    places = [(axes.x(step), axes.y(value)) for step, value in line.points]
    path = _PATH.format(points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), color=line.color)
    if len(places) > 12:
        return path
    dots = Markup("").join(_DOT.format(x=x, y=y, color=line.color) for x, y in places)
    return path + dots


def _names(lines: Sequence[Line]) -> Markup:
    x, parts = float(PANEL_WIDTH - RIGHT), []
    for line in reversed(lines):
        parts.append(_TEXT.format(x=x, y=20, anchor="end", fill=line.color, text=line.name))
        x -= 7 * len(line.name) + 10
    return Markup("").join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values from below `low` to above `high`."""
    if high - low < 1e-12 * max(abs(high), 1e-300):
        low, high = (low - abs(low) / 10, high + abs(high) / 10) if high else (0.0, 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if (high - low) / (s * power) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _thinned(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """At most MAX_POINTS, each the mean of as many neighbours; what is not finite is left out."""
    known = [(step, value) for step, value in points if math.isfinite(value)]
    if len(known) <= MAX_POINTS:
        return tuple(known)
    parts = np.array_split(np.array(known), MAX_POINTS)
    return tuple((round(float(p[:, 0].mean())), float(p[:, 1].mean())) for p in parts)


def _cap(seconds: tuple[Point, ...]) -> float:
    """Where step times are cut off: the first step alone may take 30 times as long."""
    # Shown beside the title as "peaks cut".
    return 3 * float(np.median([value for _, value in seconds])) if seconds else math.inf


def _milliseconds(points: tuple[Point, ...], cap: float) -> tuple[Point, ...]:
    return tuple((step, 1000 * min(seconds, cap)) for step, seconds in points)
