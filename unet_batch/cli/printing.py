"""What a workflow returned, for a person as tables or for a program as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from unet_batch.evaluation.summary import MeanScore, MetricSummary
    from unet_batch.planning.prediction import Account
    from unet_batch.reporting.figures import Figure
    from unet_batch.workflows.bench import BenchSummary
    from unet_batch.workflows.evaluate import EvaluateSummary
    from unet_batch.workflows.plan import PlanSummary

MAX_PLANNED = 200  # Volumes of a Plan that are printed; --json lists them all
MAX_REASONS = 20  # of quarantined Volumes that are printed; the Ledger and --json have all


def print_json(value: Any) -> None:
    """A dataclass, or plain values, as JSON on stdout; NaN becomes null."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def print_json_list(values: Iterable[Any]) -> None:
    """Values as a JSON array on stdout, one after the other: a million need no memory."""
    separator = "[\n"
    for value in values:
        sys.stdout.write(separator + json.dumps(_plain(value), indent=2, allow_nan=False))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0
) -> None:
    """A table on stdout; the last `numbers` columns are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for position, name in enumerate(columns):
        is_number = position >= len(columns) - numbers
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _console().print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """One `name  value` line each."""
    width = max(map(len, facts))
    for name, value in facts.items():
        _console().print(f"{name:<{width}}  {_cell(value)}", highlight=False, markup=False)


def print_reasons(what: str, reasons: Mapping[str, str]) -> None:
    """Volumes and why each of them is where it is, on stderr."""
    if not reasons:
        return
    console = Console(stderr=True)
    console.print(f"{len(reasons)} {what}:", style="bold red")
    for volume_id, reason in list(reasons.items())[:MAX_REASONS]:
        console.print(f"  {volume_id}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if len(reasons) > MAX_REASONS:
        console.print(f"  ... and {len(reasons) - MAX_REASONS} more (--json lists them all)")


def print_warnings(warnings: Mapping[str, Sequence[str]]) -> None:
    """Each warning once, with the Volumes that it is of, on stderr."""
    owners: dict[str, list[str]] = {}
    for volume_id, texts in warnings.items():
        for text in texts:
            owners.setdefault(text, []).append(volume_id)
    lines = [f"{text}: {_some(ids)}" for text, ids in owners.items()]
    print_lines(f"{len(warnings)} with warnings", lines)


def _some(ids: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(ids[:most])
    return shown if len(ids) <= most else f"{len(ids)} Volumes, such as {shown}"


def print_lines(what: str, lines: Sequence[str]) -> None:
    """A list of notes, on stderr."""
    if lines:
        console = Console(stderr=True)
        console.print(f"{what}:", style="bold")
        for line in lines[:MAX_REASONS]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > MAX_REASONS:
            console.print(f"  ... and {len(lines) - MAX_REASONS} more (--json lists them all)")


def print_scores(summary: EvaluateSummary) -> None:
    """Each metric of each class: its mean and the interval of that; or what is odd."""
    if summary.truth is None:
        print_odd(summary)
        return
    from unet_batch.reporting.figures import figures_of

    figures = figures_of(summary.tolerance_mm)
    columns = [name for name in figures if name in summary.overall]
    print_table(
        f"{summary.labels!r} against {summary.truth!r}",
        ("class", *(figures[name].heading for name in columns), "Volumes"),
        [
            (
                one.class_name,
                *(_with_interval(figures[name], one.metrics[name]) for name in columns),
                one.num_scored,
            )
            for one in summary.classes
        ],
        numbers=len(columns) + 1,
    )
    facts = {
        f"mean {figures[n].heading}": _with_interval(figures[n], summary.overall[n])
        for n in columns
    }
    print_facts(facts | {"all scores": summary.table})
    _print_left_out(summary)


def print_odd(summary: EvaluateSummary) -> None:
    """The Volumes that stand out without a truth, the gravest first."""
    from unet_batch.evaluation.checks import texts_of

    print_table(
        f"{len(summary.odd)} of {summary.num_scored} masks {summary.labels!r} stand out",
        ("Volume", "why"),
        [(one.volume_id, "; ".join(texts_of(one.findings))) for one in summary.odd[:MAX_PLANNED]],
    )
    print_facts({"all volumes": summary.table})
    _print_left_out(summary)


def _print_left_out(summary: EvaluateSummary) -> None:
    for what, ids in (
        ("labels", summary.without_labels),
        ("truth", summary.without_truth),
    ):
        if ids:
            print_facts({f"without {what}": f"{len(ids)} Volumes: {', '.join(ids[:10])}"})


def _with_interval(figure: Figure, one: MetricSummary | MeanScore) -> str:
    """`0.912 [0.884, 0.934]`."""
    if one.interval is None:
        return figure.text(one.mean)
    low, high = map(figure.text, one.interval)
    return f"{figure.text(one.mean)} [{low}, {high}]"


def print_plan(summary: PlanSummary) -> None:
    """Volumes of a Plan, and what they add up to."""
    print_table(
        f"Plan of {summary.job}",
        ("Volume", "shape (z, y, x)", "published", "tiles", "Blocks", "Sweeps", "memory (MiB)"),
        [
            (
                volume.volume_id,
                " x ".join(map(str, volume.shape_zyx)),
                "yes" if volume.is_published else "no",
                volume.num_tiles,
                volume.num_blocks,
                volume.num_sweeps,
                volume.memory_bytes // 2**20,
            )
            for volume in summary.volumes[:MAX_PLANNED]
        ],
        numbers=4,
    )
    print_facts(
        {
            "Volumes": len(summary.volumes),
            "tiles": f"{summary.tiles_left} to predict, {summary.num_tiles} in all",
            "memory of a Replica": f"{summary.memory_bytes / 2**20:.0f} MiB"
            f" (budget {summary.memory_budget / 2**20:.0f} MiB)",
            **_pace_facts(summary),
        }
    )
    print_accounts({"predicted": summary.predicted})


def _pace_facts(summary: PlanSummary) -> dict[str, object]:
    found = summary.calibration
    if found is None:
        return {"seconds a tile": "not known"}
    pace = f"{found.seconds_per_tile:.3g} ({found.engine or 'any engine'}, {found.source})"
    return {"Replicas": summary.num_replicas, "seconds a tile": pace}


def print_accounts(accounts: Mapping[str, Account]) -> None:
    """What a Job takes: as predicted, and as it was."""
    print_table(
        "What it takes",
        ("", "tiles", "seconds", "memory MiB", "read MiB", "written MiB", "Replica hours", "cost"),
        [
            (
                name,
                one.tiles,
                one.seconds,
                one.memory_bytes // 2**20 if one.memory_bytes else None,
                one.bytes_read / 2**20,
                one.bytes_written / 2**20,
                one.replica_hours,
                one.cost,
            )
            for name, one in accounts.items()
        ],
        numbers=7,
    )


def print_bench(summary: BenchSummary) -> None:
    """Seconds of each case, and what they mean as ratios."""
    print_table(
        "Bench: medians in seconds",
        (
            *("case", "engine", "tiles", "bare", "Job", "MONAI fp32", "autocast"),
            *("bare / Job", "fp32 / Job", "autocast / Job", "RSS MiB"),
        ),
        [
            (
                case.name,
                case.job_engine,
                f"{case.tiles_predicted} of {case.tiles_planned}",
                case.bare_s,
                case.end_to_end_s,
                case.monai_fp32_s,
                case.monai_autocast_s,
                case.share_of_bare,
                case.monai_fp32_s and case.monai_fp32_s / case.end_to_end_s,
                case.monai_autocast_s and case.monai_autocast_s / case.end_to_end_s,
                case.peak_rss_bytes // 2**20,
            )
            for case in summary.cases
        ],
        numbers=8,
    )
    print_table(
        "What that is, and takes",
        (
            *("case", "rounds", "Mvoxel a second", "core ms a Volume beyond bare"),
            *("start of a Replica s", "GPU MiB"),
        ),
        [
            (
                case.name,
                case.rounds,
                case.voxels_per_second / 1e6,
                1e3 * case.overhead_s_per_volume,
                case.start_s,
                case.peak_device_bytes // 2**20 or None,
            )
            for case in summary.cases
        ],
        numbers=5,
    )
    print_table(
        "Where the workers' seconds go",
        ("case", "part", "seconds"),
        [
            (case.name, part, seconds)
            for case in summary.cases
            for part, seconds in case.seconds_by_part.items()
        ],
        numbers=1,
    )
    if summary.plot:
        print_facts({"plot": summary.plot})


def _console() -> Console:
    """Wide where nobody looks: a table in a file must not be folded."""
    return Console(width=None if sys.stdout.isatty() else 140)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value
