"""How panels look: each has a title, what it means, a unit, thresholds, and its queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = tuple[str, str]
"""A PromQL expression, and the legend of its series, such as `{{stage}}`."""

Steps = Sequence[tuple[float, str]]
"""From which value on which colour; below the first it is green."""

Built = Builder[Panel]
"""A panel that a dashboard takes."""

AnyPanel = TypeVar("AnyPanel", timeseries.Panel, stat.Panel, bargauge.Panel, heatmap.Panel)

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24  # of a row of Grafana's grid
MODEL = 'dataset=~"$dataset",model=~"$model"'
JOB = f'{MODEL},job=~"$job"'
"""What the variables choose, as labels of a selector."""


def lines(
    title: str,
    meaning: str,
    unit: str,
    *queries: Query,
    steps: Steps = (),
    width: int = 8,
    stacked: bool = False,
    maximum: float | None = None,
) -> timeseries.Panel:
    """Values over time; thresholds are drawn as dashed lines."""
    panel = timeseries.Panel().line_width(1.5).fill_opacity(25 if stacked else 8)
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)  # noqa: FBT003 - the SDK's own
    )
    panel.legend(legend).min(0)
    if steps:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if maximum is not None:
        panel.max(maximum)
    return _dress(panel, title, meaning, unit, queries, steps, width, height=8)


def signed_lines(
    title: str, meaning: str, unit: str, *queries: Query, steps: Steps, width: int = 8
) -> timeseries.Panel:
    """Values over time that may fall below zero."""
    panel = timeseries.Panel().line_width(1.5).fill_opacity(8)
    return _dress(panel, title, meaning, unit, queries, steps, width, height=8)


def number(
    title: str, meaning: str, unit: str, query: Query, *, steps: Steps = (), width: int = 4
) -> stat.Panel:
    """The present value, large, in the colour of its threshold."""
    panel = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _dress(panel, title, meaning, unit, [query], steps, width, height=4)


def bars(
    title: str, meaning: str, unit: str, *queries: Query, steps: Steps = (), width: int = 8
) -> bargauge.Panel:
    """Present values side by side."""
    panel = (
        bargauge.Panel()
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
    )
    return _dress(panel, title, meaning, unit, queries, steps, width, height=8)


def density(title: str, meaning: str, unit: str, expr: str, *, width: int = 8) -> heatmap.Panel:
    """How values are distributed, over time: the buckets of a histogram."""
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Greens")
    panel = heatmap.Panel().calculate(False).color(color)  # noqa: FBT003 - the SDK's own
    panel.with_target(_target(0, (expr, "{{le}}")).format(PromQueryFormat.HEATMAP))
    return _dress(panel, title, meaning, unit, [], (), width, height=8)


def board(title: str, uid: str, meaning: str, *, kinds: str = "") -> dashboard.Dashboard:
    """An empty dashboard with its variables: dataset, model and job, or the Ray cluster.

    `kinds` are the workflows whose jobs can be chosen, as `train|retrain`.
    """
    source = dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(meaning)
        .tags(["unet-batch"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(source)
    )
    if not kinds:
        return made.with_variable(_variable("cluster", "ray_node_cpu_count", "ray_io_cluster"))
    chosen = f'kind=~"{kinds}"'
    for name in ("dataset", "model", "job"):
        made.with_variable(_variable(name, f"unet_batch_job_info{{{chosen}}}", name))
        chosen += f',{name}=~"${name}"'
    return made


def _variable(name: str, selector: str, label: str) -> dashboard.QueryVariable:
    """The values of a label; All is all of these, not all there are of other kinds."""
    query = f"label_values({selector}, {label})"
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(query)
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .include_all(True)  # noqa: FBT003 - the SDK's own
        .multi(True)  # noqa: FBT003
        .current(VariableOption(text="All", value="$__all", selected=True))
    )


def _dress(
    panel: AnyPanel,
    title: str,
    meaning: str,
    unit: str,
    queries: Sequence[Query],
    steps: Steps,
    width: int,
    *,
    height: int,
) -> AnyPanel:
    thresholds = [Threshold(value=None, color="green")]
    thresholds += [Threshold(value=value, color=color) for value, color in steps]
    panel.title(title).description(meaning).unit(unit).datasource(DATASOURCE)
    panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
    for position, query in enumerate(queries):
        panel.with_target(_target(position, query))
    return panel.span(width).height(height)


def _target(position: int, query: Query) -> prometheus.Dataquery:
    expr, legend = query
    return (
        prometheus.Dataquery()
        .ref_id("ABCDEFGH"[position])
        .datasource(DATASOURCE)
        .expr(expr)
        .legend_format(legend)
        .range()
    )
