"""What a report keeps of every Volume: there may be a hundred thousand.

    ScoredVolume, one after another ─▶ GatheredVolumes ─▶ entries of the page, in their order

Numbers and a few words are kept; its masks and its description are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan

from unet_batch.evaluation.checks import rank_of, texts_of
from unet_batch.evaluation.outliers import volume_outlyingness
from unet_batch.evaluation.scores import Score
from unet_batch.planning.volume_info import Json, LabelClass, VolumeInfo
from unet_batch.reporting.page import ClassValue, LegendEntry, VolumeEntry, mean_dice_of
from unet_batch.reporting.pictures import distinct_colors
from unet_batch.workflows.checking import ArchiveCheck
from unet_batch.workflows.scoring import ScoredVolume

MAX_PROVENANCE_VALUES = 3
TIMES = " \N{MULTIPLICATION SIGN} "


@dataclass(frozen=True, slots=True)
class _Kept:
    volume_id: str
    facts: tuple[str, ...]
    scores: tuple[Score, ...]


class GatheredVolumes:
    """The scored Volumes of a report; without a truth, what stands out among them as well."""

    def __init__(self, *, has_truth: bool) -> None:
        self._check = None if has_truth else ArchiveCheck()
        self._kept: list[_Kept] = []
        self._classes: dict[int, tuple[str, LabelClass]] = {}
        self._origins: dict[str, set[str]] = {}

    def add(self, scored: ScoredVolume) -> None:
        """Take in one Volume that has scores."""
        info = scored.pair.info
        self._kept.append(_Kept(info.id, _facts(info), scored.scores))
        for one in scored.pair.classes:
            known = self._classes.get(one.value)
            if known is None or info.id < known[0]:  # whichever came first, the page is the same
                self._classes[one.value] = (info.id, one)
        for name, value in scored.pair.labels.provenance.items():
            _add_value(self._origins, name, value)
        if self._check:
            self._check.add(scored)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def scores(self) -> list[Score]:
        """All scores, by Volume id."""
        kept = sorted(self._kept, key=lambda one: one.volume_id)
        return [score for one in kept for score in one.scores]

    def count_kinds(self) -> dict[str, int]:
        """Volumes by their gravest finding; none with a truth."""
        return self._check.count_kinds() if self._check else {}

    def legend(self) -> dict[int, LegendEntry]:
        """Name and colour of every class value that any of the Volumes knows."""
        classes = [self._classes[value][1] for value in sorted(self._classes)]
        colors = distinct_colors(classes)
        return {one.value: LegendEntry(one.name, colors[one.value]) for one in classes}

    def provenance(self) -> list[tuple[str, str]]:
        """What made the masks: each plain fact with its value, or the number of values if many."""
        return [(_readable(name), _some(found)) for name, found in sorted(self._origins.items())]

    def entries(self, legend: Mapping[int, LegendEntry]) -> list[VolumeEntry]:
        """One for each Volume with an anchor for links: those first that a person should see.

        With a truth those of least mean Dice, without one those that stand out, then the
        farthest from the others.
        """
        entries = [self._entry(one, legend) for one in self._kept]
        if self._check:
            ordered = self._odd_first(entries, self._check)
        else:
            ordered = sorted(entries, key=_worst_first)
        return [replace(entry, anchor=f"v{k}") for k, entry in enumerate(ordered, start=1)]

    def _entry(self, kept: _Kept, legend: Mapping[int, LegendEntry]) -> VolumeEntry:
        by_value = {score.class_value: score for score in kept.scores}
        classes = tuple(
            self._class_value(entry, by_value.get(value)) for value, entry in legend.items()
        )
        return VolumeEntry(kept.volume_id, "", kept.facts, mean_dice_of(classes), classes)

    def _class_value(self, legend: LegendEntry, score: Score | None) -> ClassValue:
        if score is None:
            return ClassValue(legend, volume_ml=nan)
        if self._check:
            return ClassValue(legend, score.predicted_ml)
        return ClassValue(
            legend,
            score.predicted_ml,
            score.true_ml,
            score.dice,
            score.hd95_mm,
            score.surface_dice,
        )

    def _odd_first(self, entries: list[VolumeEntry], check: ArchiveCheck) -> list[VolumeEntry]:
        findings = check.findings()
        far = volume_outlyingness({e.volume_id: [c.volume_ml for c in e.classes] for e in entries})
        shown = [
            replace(
                entry,
                rank_value=far[entry.volume_id],
                findings=texts_of(findings[entry.volume_id]),
            )
            for entry in entries
        ]
        return sorted(
            shown,
            key=lambda e: (*rank_of(findings[e.volume_id]), -far[e.volume_id], e.volume_id),
        )


def _worst_first(entry: VolumeEntry) -> tuple[bool, float, str]:
    return (entry.rank_value is None, entry.rank_value or 0.0, entry.volume_id)


def _facts(info: VolumeInfo) -> tuple[str, ...]:
    shape = TIMES.join(map(str, info.shape_zyx))
    spacing = TIMES.join(f"{mm:.3g}" for mm in info.spacing_mm)
    channels = (f"{len(info.channels)} channels",) if len(info.channels) > 1 else ()
    modality = (info.modality,) if info.modality else ()
    return (*modality, f"{shape} voxels", f"{spacing} mm", *channels)


def _add_value(values: dict[str, set[str]], name: str, value: Json) -> None:
    """Note one fact; the hash of the input is a Volume's own, and nothing to sum up."""
    if isinstance(value, str | int | float) and name != "input_hash":
        values.setdefault(name, set()).add(str(value))


def _readable(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _some(values: set[str]) -> str:
    if len(values) > MAX_PROVENANCE_VALUES:
        return f"{len(values)} different values"
    return ", ".join(sorted(values))
