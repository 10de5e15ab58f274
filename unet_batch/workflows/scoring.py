"""Scoring of many Volumes on Ray: what `evaluate` and `report` have in common.

A Volume is cut into the Shards of its Labels; each is one piece of work that returns a few
counts. The driver adds them up, so neither side ever holds more than a Shard of two masks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import dask
from dask.delayed import Delayed

from unet_batch.errors import NotFoundError, SpecError, UnetBatchError, reason_of
from unet_batch.evaluation.dice import Overlap, overlap_of_region, require_same_shape
from unet_batch.evaluation.scores import Score, foreground_classes, scores_of
from unet_batch.planning.volume_info import LabelClass, VolumeInfo
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Labels, Volume
from unet_batch.tiling.box import Box
from unet_batch.workflows.dask_window import Finished, compute_in_window


@dataclass(frozen=True, slots=True)
class LabelsPair:
    """Labels of one Volume and their truth, if there is to be one."""

    info: VolumeInfo
    labels: Labels
    truth: Labels | None
    classes: tuple[LabelClass, ...]

    @property
    def regions(self) -> list[Box]:
        """The Shards of the Labels, each read once."""
        return list(Box.from_shape(self.labels.shape_zyx).split(self.labels.shard_zyx))


@dataclass(frozen=True, slots=True)
class Selection:
    """The Volumes that can be scored, and the others: which Labels lack, or what is wrong."""

    pairs: tuple[LabelsPair, ...]
    without_labels: tuple[str, ...]
    without_truth: tuple[str, ...]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ScoredVolume:
    """The scores of one Volume, or the `reason` why it has none; `seconds` since its first read.

    Without a truth, the scores compare the mask with itself: only their volumes say something.
    """

    pair: LabelsPair
    scores: tuple[Score, ...]
    reason: str
    seconds: float


def select_pairs(
    archive: Archive,
    patterns: Sequence[str],
    *,
    labels: str,
    truth: str | None,
    where: str | None = None,
) -> Selection:
    """The Volumes of `patterns` and `where`: those with `labels` (and `truth`), and the others.

    Raises SpecError where none has them, with the names of the Labels that there are.
    """
    pairs: list[LabelsPair] = []
    without: dict[str, list[str]] = {labels: [], truth or "": []}
    failed: dict[str, str] = {}
    selected = archive.select(patterns, where)
    for info in selected:
        by_name = Volume(archive.url, info).labels
        try:
            pairs.append(pair_of(info, by_name, labels, truth))
        except NotFoundError:
            missing = labels if labels not in by_name else truth or ""
            without[missing].append(info.id)
        except UnetBatchError as error:
            failed[info.id] = str(error)
    if not pairs and not failed:
        raise SpecError(_nothing_to_score(archive, selected, labels, truth))
    return Selection(tuple(pairs), tuple(without[labels]), tuple(without[truth or ""]), failed)


def score_pairs(pairs: Iterable[LabelsPair], *, window: int) -> Iterator[ScoredVolume]:
    """Count each pair on Ray, `window` Shards at once, and yield each Volume when it is whole.

    A Volume of which any Shard cannot be read is yielded with the reason and without scores.
    """
    sums: dict[str, _Sum] = {}
    for finished in compute_in_window(_work(pairs, sums), window=window):
        pair = finished.key
        total = sums[pair.info.id]
        total.add(finished)
        if total.num_left == 0:
            yield _scored(pair, sums.pop(pair.info.id))


def score_pair(pair: LabelsPair) -> tuple[Score, ...]:
    """The scores of one Volume, counted here and now, Shard by Shard."""
    total = Overlap.nothing(len(pair.classes))
    for region in pair.regions:
        total += _count(pair.labels, pair.truth or pair.labels, pair.classes, region)
    return scores_of(pair.info.id, pair.classes, total, pair.info.spacing_mm)


@dataclass(slots=True)
class _Sum:
    """Counts of one Volume so far."""

    overlap: Overlap
    num_left: int
    reason: str = ""
    started: float = field(default_factory=time.monotonic)

    def add(self, finished: Finished[LabelsPair]) -> None:
        self.num_left -= 1
        if isinstance(finished.value, Overlap):
            self.overlap += finished.value
        elif finished.error and not self.reason:
            self.reason = reason_of(finished.error)


def pair_of(
    info: VolumeInfo, by_name: Mapping[str, Labels], labels: str, truth: str | None
) -> LabelsPair:
    """The Labels of one Volume and their truth.

    Labels of one of several classes that overlap are scored for that class alone. Raises
    NotFoundError where one is missing, GeometryError or SpecError where they cannot be compared.
    """
    mask = by_name[labels]
    if truth is None:
        return LabelsPair(info, mask, None, foreground_classes(mask.classes, ()))
    true_mask = by_name[truth]
    where = f"Volume {info.id}, Labels {labels!r} against {truth!r}"
    require_same_shape(mask.shape_zyx, true_mask.shape_zyx, where=where)
    is_one_of_several = bool(mask.provenance.get("overlapping"))
    classes = foreground_classes(mask.classes, () if is_one_of_several else true_mask.classes)
    if not classes:
        raise SpecError(f"{where}: neither names any class but background")
    return LabelsPair(info, mask, true_mask, classes)


def _work(
    pairs: Iterable[LabelsPair], sums: dict[str, _Sum]
) -> Iterator[tuple[LabelsPair, Delayed]]:
    for pair in pairs:
        regions = pair.regions
        sums[pair.info.id] = _Sum(Overlap.nothing(len(pair.classes)), len(regions))
        for region in regions:
            # A partial hides the arguments from Dask, which would walk through all of them.
            count = partial(_count, pair.labels, pair.truth or pair.labels, pair.classes, region)
            yield pair, dask.delayed(count, pure=False, traverse=False)()


def _count(labels: Labels, truth: Labels, classes: tuple[LabelClass, ...], region: Box) -> Overlap:
    values = [c.value for c in classes]
    return overlap_of_region(labels.array, truth.array, values, region)


def _scored(pair: LabelsPair, total: _Sum) -> ScoredVolume:
    seconds = time.monotonic() - total.started
    if total.reason:
        return ScoredVolume(pair, (), total.reason, seconds)
    scores = scores_of(pair.info.id, pair.classes, total.overlap, pair.info.spacing_mm)
    return ScoredVolume(pair, scores, "", seconds)


def _nothing_to_score(
    archive: Archive, selected: Sequence[VolumeInfo], labels: str, truth: str | None
) -> str:
    there = sorted({name for info in selected for name in Volume(archive.url, info).labels})
    wanted = f"Labels {labels!r}" + (f" and the truth {truth!r}" if truth else "")
    return (
        f"none of the {len(selected)} Volumes chosen in {archive.url} "
        f"has {wanted}; Labels there are: {', '.join(there) or 'none'}"
    )
