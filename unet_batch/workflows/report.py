"""report: one HTML file, the worst Volumes first and with pictures.

Every Volume is measured first, a Shard at a time, and numbers are kept of it; then those at the
head of the ranking are drawn, each as one piece of work that reads three slices of its scan. A
picture takes some 50 kB, a Volume without one 1 to 2 kB.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import dask
from dask.delayed import Delayed

from unet_batch.errors import SpecError, reason_of
from unet_batch.evaluation.measuring import Scoring
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
from unet_batch.reporting.page import (
    LegendEntry,
    ReportPage,
    VolumeEntry,
    class_plots,
    render,
    volume_plot,
    without_credentials,
)
from unet_batch.reporting.pictures import (
    Picture,
    Rgb,
    draw_planes,
    window_of,
)
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.stores import normalize_url, open_store
from unet_batch.storage.volume import Volume
from unet_batch.workflows.dask_window import compute_in_window, default_window, require_ray
from unet_batch.workflows.job_accounts import account_facts
from unet_batch.workflows.pairs import PairStream, find_pair
from unet_batch.workflows.report_volumes import GatheredVolumes
from unet_batch.workflows.scoring import score_pairs

FILE_NAME = "report.html"


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
    stream = PairStream(
        archive, spec.volumes, labels=spec.labels, truth=spec.truth, where=spec.where
    )
    job = f"report-{spec.digest()}"
    num_volumes, _ = stream.count()
    listen(JobStarted(job, "report", spec.labels, num_volumes, dataset=archive.name))
    window = spec.window or default_window()
    gathered, left_out = _gather(stream, spec, window, listen)
    legend = gathered.legend()
    entries = _with_pictures(gathered.entries(legend), spec, legend, window, listen)
    page = _page(spec, archive, entries, gathered, legend, left_out)
    path, num_bytes = _write(render(page), spec.out)
    seconds = time.monotonic() - started
    listen(JobFinished(job, seconds))
    return ReportSummary(
        path=path,
        num_volumes=len(gathered),
        num_pictured=page.num_pictured,
        left_out=left_out,
        num_bytes=num_bytes,
        seconds=seconds,
    )


def _gather(
    stream: PairStream, spec: ReportSpec, window: int, listen: Listener
) -> tuple[GatheredVolumes, dict[str, str]]:
    """The Volumes that have scores, and the reason for every one that has none."""
    gathered, left_out = GatheredVolumes(has_truth=spec.truth is not None), {}
    for scored in score_pairs(stream, window=window, scoring=Scoring.of(spec)):
        if scored.reason:
            left_out[scored.pair.info.id] = scored.reason
            listen(VolumeFinished(scored.pair.info.id, "quarantined", scored.reason))
        else:
            gathered.add(scored)
    if spec.truth is None:
        listen(ArchiveChecked(len(gathered), gathered.count_kinds()))
    for one in stream.left_out():
        left_out[one.volume_id] = one.reason
        listen(one)
    return gathered, dict(sorted(left_out.items()))


def _with_pictures(
    ranked: Sequence[VolumeEntry],
    spec: ReportSpec,
    legend: Mapping[int, LegendEntry],
    window: int,
    listen: Listener,
) -> tuple[VolumeEntry, ...]:
    """The entries, those at the head of the ranking with pictures or why there are none."""
    entries = {entry.volume_id: entry for entry in ranked}
    colors = {value: entry.color for value, entry in legend.items()}
    chosen = [entry.volume_id for entry in ranked[: spec.max_volumes]]
    for entry in ranked[spec.max_volumes :]:
        listen(VolumeFinished(entry.volume_id, "done"))
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
    volume_ids: Iterable[str], spec: ReportSpec, colors: Mapping[int, Rgb]
) -> Iterator[tuple[str, Delayed]]:
    for volume_id in volume_ids:
        # A partial hides the arguments from Dask, which would walk through all of them.
        draw = partial(_draw, volume_id, spec, colors)
        yield volume_id, dask.delayed(draw, pure=False, traverse=False)()


def _draw(volume_id: str, spec: ReportSpec, colors: Mapping[int, Rgb]) -> tuple[Picture, ...]:
    pair = find_pair(open_archive(spec.archive), volume_id, spec.labels, spec.truth)
    info, channel = pair.info, spec.channel
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
    gathered: GatheredVolumes,
    legend: Mapping[int, LegendEntry],
    left_out: Mapping[str, str],
) -> ReportPage:
    against = f" against {spec.truth}" if spec.truth else ""
    summary = ScoreSummary((), {})
    plots = volume_plot(volumes, tuple(legend.values()))
    if spec.truth:
        summary = summarise(gathered.scores, metrics=spec.metrics, bootstrap=spec.bootstrap)
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
            *gathered.provenance(),
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
        max_listed=spec.max_listed,
        tolerance_mm=spec.tolerance_mm,
        confidence=spec.bootstrap.confidence,
    )


def _write(html: str, out: str) -> tuple[str, int]:
    """Store the page, whole or not at all; its address and its bytes."""
    url = normalize_url(out if out.endswith(".html") else f"{out}/{FILE_NAME}")
    folder, _, name = url.rpartition("/")
    content = html.encode()
    open_store(folder or "/").put(name, content)
    return url, len(content)
