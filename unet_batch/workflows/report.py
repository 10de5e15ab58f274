"""report: one HTML file with a picture of every Volume, the worst first.

Every Volume is measured first, a Shard at a time; then those at the head of the ranking are
drawn, each as one piece of work that reads three slices of its scan. The driver holds the
finished pictures only, some 50 kB a Volume.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import nan

import dask
from dask.delayed import Delayed

from unet_batch.errors import SpecError, reason_of
from unet_batch.evaluation.checks import rank_of, texts_of
from unet_batch.evaluation.measuring import Scoring
from unet_batch.evaluation.outliers import volume_outlyingness
from unet_batch.evaluation.scores import Score
from unet_batch.evaluation.summary import ScoreSummary, summarise
from unet_batch.monitoring.events import (
    ArchiveChecked,
    JobFinished,
    JobStarted,
    Listener,
    VolumeFinished,
    ignore,
)
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.planning.volume_info import Json, LabelClass, VolumeInfo
from unet_batch.reporting.page import (
    ClassValue,
    LegendEntry,
    ReportPage,
    VolumeEntry,
    class_plots,
    mean_dice_of,
    render,
    volume_plot,
    without_credentials,
)
from unet_batch.reporting.pictures import (
    Picture,
    Rgb,
    distinct_colors,
    draw_planes,
    window_of,
)
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.stores import normalize_url, open_store
from unet_batch.storage.volume import Volume
from unet_batch.workflows.checking import ArchiveCheck
from unet_batch.workflows.dask_window import compute_in_window, default_window, require_ray
from unet_batch.workflows.job_accounts import account_facts
from unet_batch.workflows.pairs import LabelsPair
from unet_batch.workflows.scoring import (
    ScoredVolume,
    Selection,
    score_pairs,
    select_pairs,
)

FILE_NAME = "report.html"
MAX_PROVENANCE_VALUES = 3
TIMES = " \N{MULTIPLICATION SIGN} "


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """Where the report is and what it shows; `left_out` maps a Volume to why it is missing."""

    path: str
    num_volumes: int
    num_pictured: int
    left_out: dict[str, str]
    num_bytes: int
    seconds: float


def report(spec: ReportSpec, *, listen: Listener = ignore) -> ReportSummary:
    """Write the report on `spec.labels` as one HTML file.

    Ray must be running. Raises SpecError where no Volume has the Labels (and truth),
    StoreError where the Archive cannot be read or the file not be written.
    """
    require_ray()
    started = time.monotonic()
    archive = open_archive(spec.archive)
    selection = select_pairs(
        archive, spec.volumes, labels=spec.labels, truth=spec.truth, where=spec.where
    )
    job = f"report-{spec.digest()}"
    listen(JobStarted(job, "report", spec.labels, len(selection.pairs), dataset=archive.name))
    window = spec.window or default_window()
    scored, left_out = _measure(selection, spec, window, listen)
    legend = _legend([item.pair for item in scored])
    ranked = _ranked(scored, legend) if spec.truth else _odd_first(scored, legend, listen)
    pictured = _with_pictures(ranked, spec, legend, window, listen)
    page = _page(spec, archive, pictured, scored, legend, left_out)
    path, num_bytes = _write(render(page), spec.out)
    seconds = time.monotonic() - started
    listen(JobFinished(job, seconds))
    return ReportSummary(
        path=path,
        num_volumes=len(ranked),
        num_pictured=page.num_pictured,
        left_out=left_out,
        num_bytes=num_bytes,
        seconds=seconds,
    )


def _measure(
    selection: Selection, spec: ReportSpec, window: int, listen: Listener
) -> tuple[list[ScoredVolume], dict[str, str]]:
    """The Volumes with their scores, and the reason for every one that has none."""
    left_out = dict.fromkeys(selection.without_labels, f"has no Labels {spec.labels!r}")
    left_out |= dict.fromkeys(selection.without_truth, f"has no truth {spec.truth!r}")
    left_out |= selection.failed
    scored = []
    for item in score_pairs(selection.pairs, window=window, scoring=Scoring.of(spec)):
        info = item.pair.info
        if item.reason:
            left_out[info.id] = item.reason
            listen(VolumeFinished(info.id, "quarantined", item.reason))
        else:
            scored.append(item)
    scored.sort(key=lambda item: item.pair.info.id)
    return scored, dict(sorted(left_out.items()))


def _legend(pairs: Sequence[LabelsPair]) -> dict[int, LegendEntry]:
    """Name and colour of every class value that any of the Volumes knows."""
    by_value: dict[int, LabelClass] = {}
    for pair in pairs:
        by_value = {c.value: c for c in pair.classes} | by_value
    classes = [by_value[value] for value in sorted(by_value)]
    colors = distinct_colors(classes)
    return {c.value: LegendEntry(c.name, colors[c.value]) for c in classes}


def _ranked(
    scored: Sequence[ScoredVolume], legend: Mapping[int, LegendEntry]
) -> list[tuple[LabelsPair, VolumeEntry]]:
    """An entry for each Volume, those of least mean Dice first."""
    entries = [_entry(item, legend, has_truth=True) for item in scored]
    order = {e.volume_id: (e.rank_value is None, e.rank_value or 0.0, e.volume_id) for e in entries}
    return _anchored(scored, entries, order)


def _odd_first(
    scored: Sequence[ScoredVolume], legend: Mapping[int, LegendEntry], listen: Listener
) -> list[tuple[LabelsPair, VolumeEntry]]:
    """An entry for each Volume, those that stand out first, then the farthest from the others."""
    check = ArchiveCheck()
    for item in scored:
        check.add(item)
    listen(ArchiveChecked(len(scored), check.count_kinds()))
    findings = check.findings()
    entries = [_entry(item, legend, has_truth=False) for item in scored]
    far = volume_outlyingness({e.volume_id: [c.volume_ml for c in e.classes] for e in entries})
    order = {name: (*rank_of(findings[name]), -far[name], name) for name in far}
    shown = [
        replace(
            entry,
            rank_value=far[entry.volume_id],
            findings=texts_of(findings[entry.volume_id]),
        )
        for entry in entries
    ]
    return _anchored(scored, shown, order)


def _anchored(
    scored: Sequence[ScoredVolume],
    entries: Sequence[VolumeEntry],
    order: Mapping[str, tuple[float | str, ...]],
) -> list[tuple[LabelsPair, VolumeEntry]]:
    """Pairs and entries in their `order` by Volume id, with anchors for the page's links."""
    both = zip((item.pair for item in scored), entries, strict=True)
    ranked = sorted(both, key=lambda one: order[one[1].volume_id])
    return [(pair, replace(e, anchor=f"v{k}")) for k, (pair, e) in enumerate(ranked, start=1)]


def _entry(
    item: ScoredVolume, legend: Mapping[int, LegendEntry], *, has_truth: bool
) -> VolumeEntry:
    by_value = {score.class_value: score for score in item.scores}
    classes = tuple(
        _class_value(entry, by_value.get(value), has_truth=has_truth)
        for value, entry in legend.items()
    )
    info = item.pair.info
    return VolumeEntry(info.id, "", _facts(info), mean_dice_of(classes), classes)


def _class_value(legend: LegendEntry, score: Score | None, *, has_truth: bool) -> ClassValue:
    if score is None:
        return ClassValue(legend, volume_ml=nan)
    if not has_truth:
        return ClassValue(legend, score.predicted_ml)
    return ClassValue(
        legend,
        score.predicted_ml,
        score.true_ml,
        score.dice,
        score.hd95_mm,
        score.surface_dice,
    )


def _facts(info: VolumeInfo) -> tuple[str, ...]:
    shape = TIMES.join(map(str, info.shape_zyx))
    spacing = TIMES.join(f"{mm:.3g}" for mm in info.spacing_mm)
    channels = (f"{len(info.channels)} channels",) if len(info.channels) > 1 else ()
    modality = (info.modality,) if info.modality else ()
    return (*modality, f"{shape} voxels", f"{spacing} mm", *channels)


def _with_pictures(
    ranked: Sequence[tuple[LabelsPair, VolumeEntry]],
    spec: ReportSpec,
    legend: Mapping[int, LegendEntry],
    window: int,
    listen: Listener,
) -> tuple[VolumeEntry, ...]:
    """The entries, those at the head of the ranking with pictures or why there are none."""
    entries = {entry.volume_id: entry for _, entry in ranked}
    colors = {value: entry.color for value, entry in legend.items()}
    chosen = [pair for pair, _ in ranked[: spec.max_volumes]]
    for pair, _ in ranked[spec.max_volumes :]:
        listen(VolumeFinished(pair.info.id, "done"))
    for finished in compute_in_window(_drawings(chosen, spec, colors), window=window):
        entry = entries[finished.key]
        if isinstance(finished.value, tuple):
            entries[finished.key] = replace(entry, pictures=finished.value)
            listen(VolumeFinished(finished.key, "done"))
        elif finished.error:
            problem = f"No picture: {reason_of(finished.error)}"
            entries[finished.key] = replace(entry, problem=problem)
            listen(VolumeFinished(finished.key, "quarantined", problem))
    return tuple(entries.values())


def _drawings(
    pairs: Sequence[LabelsPair], spec: ReportSpec, colors: Mapping[int, Rgb]
) -> Iterator[tuple[str, Delayed]]:
    for pair in pairs:
        # A partial hides the arguments from Dask, which would walk through all of them.
        draw = partial(_draw, pair, spec.channel, colors)
        yield pair.info.id, dask.delayed(draw, pure=False, traverse=False)()


def _draw(pair: LabelsPair, channel: int, colors: Mapping[int, Rgb]) -> tuple[Picture, ...]:
    info = pair.info
    if channel >= len(info.channels):
        raise SpecError(
            f"channel {channel} asked for, but {info.id} has {len(info.channels)}: "
            f"{', '.join(info.channels)} (counted from 0)"
        )
    return draw_planes(
        info,
        Volume(pair.labels.archive_url, info).image[channel],
        pair.labels.array,
        pair.truth.array if pair.truth else None,
        colors=colors,
        window=window_of(info, channel),
    )


def _page(
    spec: ReportSpec,
    archive: Archive,
    volumes: tuple[VolumeEntry, ...],
    scored: Sequence[ScoredVolume],
    legend: Mapping[int, LegendEntry],
    left_out: Mapping[str, str],
) -> ReportPage:
    against = f" against {spec.truth}" if spec.truth else ""
    scores = [score for item in scored for score in item.scores]
    summary = ScoreSummary((), {})
    plots = volume_plot(volumes, tuple(legend.values()))
    if spec.truth:
        summary = summarise(scores, metrics=spec.metrics, bootstrap=spec.bootstrap)
        plots = class_plots(
            volumes, tuple(legend.values()), tuple(summary.overall), tolerance_mm=spec.tolerance_mm
        )
    truth = (("Truth", spec.truth),) if spec.truth else ()
    return ReportPage(
        title=spec.title or f"{spec.labels}{against}",
        facts=(
            ("Archive", without_credentials(archive.url)),
            ("Labels", spec.labels),
            *truth,
            *_provenance([item.pair.labels.provenance for item in scored]),
            *account_facts(archive, spec.labels),
        ),
        made_at=datetime.now().astimezone(),
        has_truth=spec.truth is not None,
        legend=tuple(legend.values()),
        summary=summary,
        volumes=volumes,
        num_pictured=sum(bool(volume.pictures) for volume in volumes),
        plots=plots,
        left_out=tuple(left_out.items()),
        tolerance_mm=spec.tolerance_mm,
        confidence=spec.bootstrap.confidence,
    )


def _provenance(origins: Sequence[Mapping[str, Json]]) -> list[tuple[str, str]]:
    """What made the masks: each plain fact with its value, or the number of values if many.

    The hash of the input is a Volume's own, and nothing to sum up.
    """
    values: dict[str, set[str]] = {}
    for origin in origins:
        for name, value in origin.items():
            if isinstance(value, str | int | float) and name != "input_hash":
                values.setdefault(name, set()).add(str(value))
    return [(_readable(name), _some(found)) for name, found in values.items()]


def _readable(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _some(values: set[str]) -> str:
    if len(values) > MAX_PROVENANCE_VALUES:
        return f"{len(values)} different values"
    return ", ".join(sorted(values))


def _write(html: str, out: str) -> tuple[str, int]:
    """Store the page, whole or not at all; its address and its bytes."""
    url = normalize_url(out if out.endswith(".html") else f"{out}/{FILE_NAME}")
    folder, _, name = url.rpartition("/")
    content = html.encode()
    open_store(folder or "/").put(name, content)
    return url, len(content)
