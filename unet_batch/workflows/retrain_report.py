"""The report of a retraining, from what was scored and decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import fmean

from unet_batch.errors import UnetBatchError
from unet_batch.planning.challenge import Comparison, class_means
from unet_batch.planning.model_versions import Decision
from unet_batch.planning.retraining import Round
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.reporting.challenge_page import (
    ChallengePage,
    ChangedVolume,
    ClassRow,
    render_challenge,
)
from unet_batch.reporting.page import LegendEntry, without_credentials
from unet_batch.reporting.pictures import Picture, Rgb, distinct_colors, draw_planes, window_of
from unet_batch.reporting.planes import fullest_slices
from unet_batch.storage.archive import Archive
from unet_batch.storage.stores import normalize_url, open_store
from unet_batch.storage.volume import Volume
from unet_batch.workflows.pairs import LabelsPair
from unet_batch.workflows.retrain_scoring import ScoredVersion


def report_path(spec: RetrainSpec, version: int) -> str:
    """Where the report on a challenger goes."""
    return normalize_url(f"{spec.work}/reports/{spec.model}-v{version}.html")


def write_challenge_report(
    spec: RetrainSpec,
    archive: Archive,
    current: Round,
    decision: Decision,
    *,
    challenger: ScoredVersion,
    champion: ScoredVersion | None,
    comparison: Comparison | None,
) -> str:
    """Write the HTML file and return its address. Raises StoreError where it cannot be written."""
    legend = _legend(challenger, champion)
    volumes = _volumes(challenger, comparison, tuple(legend))
    page = ChallengePage(
        challenger=str(challenger.version),
        champion=str(champion.version) if champion else "",
        is_promoted=decision.is_promoted,
        reasons=decision.reasons,
        facts=_facts(spec, archive, current),
        made_at=datetime.now().astimezone(),
        classes=_rows(legend, challenger, comparison),
        volumes=_with_pictures(volumes, spec, archive, challenger, champion, legend),
        difference=comparison.difference if comparison else None,
        interval=comparison.interval if comparison else None,
        p_value=comparison.p_value if comparison else None,
        left_out=_left_out(challenger, champion),
    )
    url = report_path(spec, challenger.version.version)
    folder, _, name = url.rpartition("/")
    open_store(folder).put(name, render_challenge(page).encode())
    return url


def _facts(spec: RetrainSpec, archive: Archive, current: Round) -> tuple[tuple[str, str], ...]:
    train, held_back = len(current.data.train), len(current.data.held_back)
    rules = spec.promotion
    rule = f"p at most {rules.alpha:g}, no class worse by more than {rules.margin:g}"
    if current.champion is None:
        rule = f"without a champion, a mean Dice of at least {rules.minimum_dice:g}"
    return (
        ("Archive", without_credentials(archive.url)),
        ("Truth", spec.truth),
        ("Trained on", f"{train} volumes; {current.num_new} are new, or have a new truth"),
        ("Held back", f"{held_back} volumes that no challenger learns from"),
        ("Rule", rule),
    )


def _legend(challenger: ScoredVersion, champion: ScoredVersion | None) -> dict[str, LegendEntry]:
    """Every class by name, with its colour; the challenger's colours stand."""
    by_value: dict[int, LabelClass] = {}
    for scored in filter(None, (challenger, champion)):
        for pair in scored.pairs.values():
            by_value = {one.value: one for one in pair.classes} | by_value
    classes = [by_value[value] for value in sorted(by_value)]
    colors = distinct_colors(classes)
    legend = {one.name: LegendEntry(one.name, colors[one.value]) for one in classes}
    others = {name for dice in challenger.dice.values() for name in dice} - set(legend)
    return legend | {name: LegendEntry(name, (150, 150, 150)) for name in sorted(others)}


def _rows(
    legend: Mapping[str, LegendEntry], challenger: ScoredVersion, comparison: Comparison | None
) -> tuple[ClassRow, ...]:
    if comparison is None:
        means = class_means(challenger.dice)
        return tuple(ClassRow(entry, None, means.get(name)) for name, entry in legend.items())
    return tuple(
        ClassRow(entry, comparison.champion.get(name), comparison.challenger.get(name))
        for name, entry in legend.items()
    )


def _volumes(
    challenger: ScoredVersion, comparison: Comparison | None, classes: Sequence[str]
) -> list[ChangedVolume]:
    """The most changed first; without a champion the worst first."""
    if comparison is None:
        scored = {one: _mean(dice.values()) for one, dice in challenger.dice.items()}
        known = {one: mean for one, mean in scored.items() if mean is not None}
        entries = [ChangedVolume(one, "", None, mean) for one, mean in known.items()]
        entries.sort(key=lambda one: (one.challenger, one.volume_id))
    else:
        entries = [
            ChangedVolume(
                pair.volume_id,
                "",
                fmean(pair.champion.values()),
                fmean(pair.challenger.values()),
                tuple(
                    pair.challenger[name] - pair.champion[name] if name in pair.champion else None
                    for name in classes
                ),
            )
            for pair in comparison.pairs
        ]
        entries.sort(key=lambda one: (-abs(one.difference or 0.0), one.volume_id))
    return [replace(one, anchor=f"v{k}") for k, one in enumerate(entries, start=1)]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return fmean(known) if known else None


def _with_pictures(
    volumes: Sequence[ChangedVolume],
    spec: RetrainSpec,
    archive: Archive,
    challenger: ScoredVersion,
    champion: ScoredVersion | None,
    legend: Mapping[str, LegendEntry],
) -> tuple[ChangedVolume, ...]:
    shown = []
    for volume in volumes[: spec.max_pictures]:
        theirs = champion.pairs.get(volume.volume_id) if champion else None
        ours = challenger.pairs[volume.volume_id]
        try:
            pictures = _draw_both(archive, spec.channel, theirs, ours, legend)
        except UnetBatchError as error:
            shown.append(replace(volume, problem=f"No picture: {error}"))
            continue
        shown.append(
            replace(volume, champion_pictures=pictures[0], challenger_pictures=pictures[1])
        )
    return (*shown, *volumes[spec.max_pictures :])


def _draw_both(
    archive: Archive,
    channel: int,
    champion: LabelsPair | None,
    challenger: LabelsPair,
    legend: Mapping[str, LegendEntry],
) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    """Pictures of both masks through the slices where they differ most."""
    info = challenger.info
    channel = min(channel, len(info.channels) - 1)
    colors: dict[int, Rgb] = {
        one.value: legend[one.name].color for one in challenger.classes if one.name in legend
    }
    positions = None
    if champion is not None:
        positions = fullest_slices(champion.labels.array != challenger.labels.array)
    drawn = [
        draw_planes(
            info,
            Volume(archive.url, info).image[channel],
            pair.labels.array,
            pair.truth.array if pair.truth else None,
            colors=colors,
            window=window_of(info, channel),
            positions=positions,
        )
        if pair is not None
        else ()
        for pair in (champion, challenger)
    ]
    return drawn[0], drawn[1]


def _left_out(
    challenger: ScoredVersion, champion: ScoredVersion | None
) -> tuple[tuple[str, str], ...]:
    reasons = {
        volume_id: f"{scored.version}: {reason}"
        for scored in filter(None, (champion, challenger))
        for volume_id, reason in scored.failed.items()
    }
    return tuple(sorted(reasons.items()))
