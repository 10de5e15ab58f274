"""What the committed dashboards ask Prometheus: Grafana's variables filled in, ready to ask."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHART_FOLDER = Path(__file__).parents[1] / "unet-batch" / "dashboards"


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of one panel; `expr` as it stands in the dashboard."""

    dashboard: str
    panel: str
    kind: str
    unit: str
    expr: str
    legend: str

    def filled(self, *, interval: str = "1m", span: str = "6h", **variables: str) -> str:
        """PromQL: `interval` for $__rate_interval, `span` for $__range, `.*` for a variable."""
        return fill(self.expr, {"__rate_interval": interval, "__range": span} | variables)

    def label(self, labels: Mapping[str, str]) -> str:
        """The legend of a series with these labels."""
        return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), self.legend).strip()


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a dashboard: the values of `label` on the series of `selector`."""

    name: str
    selector: str
    label: str


def variables(board: Mapping[str, Any]) -> list[Variable]:
    """The variables a dashboard asks Prometheus for, in their order."""
    found = []
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            selector, label = one["query"].removeprefix("label_values(")[:-1].rsplit(", ", 1)
            found.append(Variable(one["name"], selector, label))
    return found


def fill(expr: str, values: Mapping[str, str]) -> str:
    """`expr` with $name replaced by its value; `.*` for what has none."""
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], ".*"), expr)


def load(folder: Path = CHART_FOLDER) -> dict[str, dict[str, Any]]:
    """The dashboards in a folder, by title."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {one["title"]: one for one in found}


def panel_queries(folder: Path = CHART_FOLDER) -> Iterator[PanelQuery]:
    """Every query of every panel, in the order of the dashboards."""
    for title, board in load(folder).items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield PanelQuery(
                    title,
                    panel["title"],
                    panel["type"],
                    panel["fieldConfig"]["defaults"]["unit"],
                    target["expr"],
                    target["legendFormat"],
                )
