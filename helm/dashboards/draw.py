"""Pictures of what the dashboards would show: `python -m dashboards.draw http://prometheus:9090`.

Not Grafana: the same queries, asked of a real Prometheus, their answers drawn where the panels
stand. For a look at a dashboard where there is no Grafana, in CI for one.
"""

from __future__ import annotations

import json
import math
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from dashboards.queries import PanelQuery, fill, load, panel_queries, variables

SHORTEST = timedelta(minutes=1)  # that an axis of time shows

Drawn = dict[str, tuple[list[datetime], list[float]]]
"""Times and values of each series, by its legend."""

POINTS = 120
ROW_INCHES, COLUMN_INCHES = 0.42, 0.75
UNITS = {"percentunit": (100.0, "%"), "percent": (1.0, "%"), "bytes": (2.0**-20, "MiB")}
UNITS |= {"Bps": (2.0**-20, "MiB/s"), "s": (1.0, "s"), "si: voxel/s": (1e-6, "Mvoxel/s")}
"""Factor and name of a unit as it is drawn."""

TITLE = {"fontsize": 9, "loc": "left", "color": "#222"}


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus, and the stretch of time to look at (Unix times)."""

    url: str
    start: float
    end: float

    def series(self, expr: str) -> list[dict[str, Any]]:
        """What `query_range` answers: series with `metric` and `values`. Raises OSError."""
        step = max((self.end - self.start) / POINTS, 1.0)
        found = self._ask("query_range", query=expr, start=self.start, end=self.end, step=step)
        series: list[dict[str, Any]] = found["result"]
        return series

    def choices(self, board: Mapping[str, Any]) -> dict[str, str]:
        """What Grafana puts in for each variable where all is chosen: `a|b|c`."""
        chosen: dict[str, str] = {}
        for one in variables(board):
            selector = fill(one.selector, chosen)
            values = self._ask(f"label/{one.label}/values", **{"match[]": selector})
            chosen[one.name] = "|".join(values)
        return chosen

    def _ask(self, path: str, **parameters: object) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the caller's own
            return json.load(answer)["data"]


def draw(title: str, board: dict[str, Any], prometheus: Prometheus, path: Path) -> None:
    """A picture of one dashboard as PNG."""
    queries = [query for query in panel_queries() if query.dashboard == title]
    chosen = prometheus.choices(board)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    height = rows * ROW_INCHES + 0.6
    figure = plt.figure(figsize=(24 * COLUMN_INCHES, height), facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=15)
    for panel in board["panels"]:
        axes = figure.add_axes(_place(panel, rows))
        own = [query for query in queries if query.panel == panel["title"]]
        answers = [(query, prometheus.series(query.filled(**chosen))) for query in own]
        _draw_panel(axes, answers)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _place(panel: Mapping[str, Any], rows: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height in shares of the figure, with room for titles and ticks."""
    grid = panel["gridPos"]
    names = 0.06 if panel["type"] == "bargauge" else 0.0  # bars have theirs on the left
    left, top = grid["x"] / 24 + 0.03 + names, 0.97 - grid["y"] / rows * 0.95
    height = grid["h"] / rows * 0.95
    return left, top - 0.86 * height, grid["w"] / 24 - 0.045 - names, 0.68 * height


def _draw_panel(axes: Any, answers: list[tuple[PanelQuery, list[dict[str, Any]]]]) -> None:
    first = answers[0][0]
    factor, unit = UNITS.get(first.unit, (1.0, ""))
    axes.set_title(f"{first.panel}  [{unit}]" if unit else first.panel, **TITLE)
    drawn: Drawn = {}
    for query, series in answers:
        for one in series:
            points = [(float(t), float(v) * factor) for t, v in one["values"]]
            points = [(t, v) for t, v in points if math.isfinite(v)]
            times = [datetime.fromtimestamp(t, UTC) for t, _ in points]
            drawn[query.label(one["metric"])] = (times, [v for _, v in points])
    drawn = {label: series for label, series in drawn.items() if series[1]}
    if not drawn:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="firebrick")
    elif first.kind == "stat":
        _draw_numbers(axes, drawn)
    elif first.kind == "bargauge":
        _draw_bars(axes, drawn)
    elif first.kind == "heatmap":
        _draw_density(axes, drawn)
    else:
        _draw_lines(axes, drawn)


def _draw_numbers(axes: Any, drawn: Drawn) -> None:
    axes.set_axis_off()
    shown = [f"{label}: {values[-1]:,.4g}" for label, (_, values) in drawn.items()]
    text = "\n".join(shown[:5])
    axes.text(0.0, 0.5, text, ha="left", va="center", fontsize=11, color="#117733")


def _draw_bars(axes: Any, drawn: Drawn) -> None:
    labels = sorted(drawn, reverse=True)
    axes.barh(labels, [drawn[label][1][-1] for label in labels], color="#44aa99")
    axes.tick_params(labelsize=7)


def _draw_density(axes: Any, drawn: Drawn) -> None:
    """Buckets are cumulative: what is in one is what it has above the one below it."""
    bounds = sorted(drawn, key=lambda label: float(label.replace("+Inf", "inf")))
    length = min(len(values) for _, values in drawn.values())
    cumulative = [drawn[bound][1][-length:] for bound in bounds]
    rows = [cumulative[0]]
    rows += [[high - low for low, high in zip(*pair, strict=True)] for pair in pairwise(cumulative)]
    axes.imshow(rows, aspect="auto", origin="lower", cmap="Greens")
    axes.set_yticks(range(len(bounds)), bounds, fontsize=6)
    axes.set_xticks([])


def _draw_lines(axes: Any, drawn: Drawn) -> None:
    for label, (times, values) in sorted(drawn.items()):
        axes.plot(times, values, linewidth=1.3, label=label[:40], marker="." * (len(times) < 3))
    axes.legend(fontsize=6, loc="upper left", ncols=1 + len(drawn) // 6, framealpha=0.6)
    seen = [time for times, _ in drawn.values() for time in times]
    if max(seen) - min(seen) < SHORTEST:  # a lone sample has no width, nor ticks
        axes.set_xlim(min(seen) - SHORTEST / 2, max(seen) + SHORTEST / 2)
    locator = AutoDateLocator(maxticks=5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), high + 0.12 * (high - min(0.0, low)))


def draw_all(prometheus: Prometheus, folder: Path) -> list[Path]:
    """A picture of each dashboard in `folder`; their paths."""
    paths = []
    for title, board in load().items():
        paths.append(folder / f"{title.lower().replace(' ', '-')}.png")
        draw(title, board, prometheus, paths[-1])
    return paths


def main() -> None:
    """`python -m dashboards.draw URL [FOLDER [MINUTES]]`: the last half hour, unless said."""
    url, folder, minutes = (*sys.argv[1:], *("", ".", "30")[len(sys.argv) - 1 :])
    now = time.time()
    prometheus = Prometheus(url.rstrip("/"), now - 60 * float(minutes), now)
    for path in draw_all(prometheus, Path(folder)):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
