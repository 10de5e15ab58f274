"""Scoring of many Volumes on Ray: what `evaluate`, `report` and live scores have in common.

A Volume is cut into the Shards of its Labels. Each is read once, by one of a few tasks that go
through their Shards one by one; a last task makes the scores of what they found:

    Shards 0, 2, 4 ─▶ task ─┐
    Shards 1, 3, 5 ─▶ task ─┴─▶ task ─▶ ScoredVolume     x `window` Volumes at a time

Of Volumes of one Shard, which an archive of small scans has by the thousand, a task scores several.

A task holds two masks of one Shard and the border voxels found so far, the last one those of the
whole Volume: `surface.BYTES_PER_VOXEL` for each. The driver holds the scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

import dask
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from unet_batch.errors import MemoryBudgetError, UnetBatchError, reason_of
from unet_batch.evaluation.measuring import Measured, Scoring, measure_region, scores_of
from unet_batch.evaluation.placement import Placement, placements_of
from unet_batch.evaluation.scores import Score
from unet_batch.evaluation.surface import BYTES_PER_VOXEL
from unet_batch.side_by_side import each
from unet_batch.storage.archive import Archive
from unet_batch.storage.stores import is_far
from unet_batch.storage.volume import Labels
from unet_batch.tiling.box import Box
from unet_batch.workflows.dask_window import Finished, compute_in_window
from unet_batch.workflows.pairs import LabelsPair, PairStream

MAX_PARTS = 32
"""Tasks that share the Shards of one Volume; Dask submits a Volume's tasks at once."""

MOST_TOGETHER, MOST_VOXELS = 16, 2**22
"""Volumes of one Shard that a task scores, and their voxels: about as long as Ray takes for it."""

MAX_BORDER_VOXELS = 2 * 2**30 // BYTES_PER_VOXEL
"""Of both masks of a Volume: 2 GiB while their distances are taken. A liver has 10^5."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The Volumes that can be scored, and the others: which Labels lack, or what is wrong."""

    pairs: tuple[LabelsPair, ...]
    without_labels: tuple[str, ...]
    without_truth: tuple[str, ...]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ScoredVolume:
    """One Volume, scored.

    Attributes
    ----------
    scores: one for each of `pair.classes`, in their order; without a truth only volumes.
    placements: where each of these classes lies in the mask.
    reason: why there are no scores; empty where there are.
    seconds: since the Volume was submitted.
    """

    pair: LabelsPair
    scores: tuple[Score, ...]
    reason: str = ""
    seconds: float = 0.0
    placements: tuple[Placement, ...] = ()


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
    stream = PairStream(archive, patterns, labels=labels, truth=truth, where=where)
    pairs = tuple(stream)
    return Selection(
        pairs, tuple(stream.without_labels), tuple(stream.without_truth), stream.failed
    )


def score_pairs(
    pairs: Iterable[LabelsPair], *, window: int, scoring: Scoring | None = None
) -> Iterator[ScoredVolume]:
    """Score each pair on Ray, `window` Volumes or groups of small ones at once, as they end.

    A Volume of which any Shard cannot be read is yielded with the reason and without scores; those
    whose task dies are scored again each alone, to find the one that kills.
    """
    scoring = scoring or Scoring()
    suspects: list[LabelsPair] = []
    for finished in compute_in_window(_work(together(pairs), scoring), window=window):
        if finished.error and len(finished.key.pairs) > 1:
            suspects += finished.key.pairs
        else:
            yield from _scored(finished)
    alone = _work(((pair,) for pair in suspects), scoring)
    for finished in compute_in_window(alone, window=window):
        yield from _scored(finished)


def together(pairs: Iterable[LabelsPair]) -> Iterator[tuple[LabelsPair, ...]]:
    """The pairs in groups for a task each: small ones together, up to MOST_TOGETHER of them."""
    few: list[LabelsPair] = []
    voxels = 0
    for pair in pairs:
        if len(pair.regions) > 1:
            yield (pair,)
            continue
        if few and (len(few) == MOST_TOGETHER or voxels + pair.info.num_voxels > MOST_VOXELS):
            yield tuple(few)
            few, voxels = [], 0
        few.append(pair)
        voxels += pair.info.num_voxels
    if few:
        yield tuple(few)


def score_pair(pair: LabelsPair, scoring: Scoring | None = None) -> ScoredVolume:
    """One Volume, scored here and now, Shard by Shard.

    Raises StoreError where a mask cannot be read, and MemoryBudgetError where its surfaces are
    too rough to be compared.
    """
    scoring = scoring or Scoring()
    return _finish(pair, scoring, _measure(pair, pair.regions, scoring))


class _Group(NamedTuple):
    """Pairs that are scored together, and when they were submitted."""

    pairs: tuple[LabelsPair, ...]
    started: float


def _work(
    groups: Iterable[tuple[LabelsPair, ...]], scoring: Scoring
) -> Iterator[tuple[_Group, Delayed]]:
    for pairs in groups:
        group, (pair, *others) = _Group(pairs, time.monotonic()), pairs
        regions = pair.regions
        # A partial hides the arguments from Dask, which would walk through all of them.
        if others or len(regions) == 1:
            yield group, _delayed(partial(_score_few, pairs, scoring))()
            continue
        num_parts = min(len(regions), MAX_PARTS)
        parts = [
            _delayed(partial(_measure, pair, regions[k::num_parts], scoring))()
            for k in range(num_parts)
        ]
        yield group, _delayed(partial(_finish, pair, scoring))(*parts)


def _score_few(pairs: Sequence[LabelsPair], scoring: Scoring) -> list[ScoredVolume]:
    """Each by itself, and side by side where a store far away is waited for."""
    is_waited_for = any(is_far(pair.labels.stored.url) for pair in pairs)
    return each(partial(_score_or_tell, scoring=scoring), pairs, at_once=is_waited_for)


def _score_or_tell(pair: LabelsPair, scoring: Scoring) -> ScoredVolume:
    try:
        return score_pair(pair, scoring)
    except UnetBatchError as error:
        return ScoredVolume(pair, (), reason_of(error))


def _delayed(function: Callable[..., ScoredVolume | list[ScoredVolume] | Measured]) -> Delayed:
    delayed: Delayed = dask.delayed(function, pure=False, traverse=False)
    return delayed


def _measure(pair: LabelsPair, regions: Sequence[Box], scoring: Scoring) -> Measured:
    """What `regions` say together, one being read at a time."""
    parts = []
    for region in regions:
        truth = None if pair.truth is None else _read(pair.truth, region)
        parts.append(
            measure_region(
                _read(pair.labels, region),
                truth,
                [one.value for one in pair.classes],
                region=region,
                shape_zyx=pair.labels.shape_zyx,
                has_surfaces=scoring.has_surfaces,
            )
        )
    return sum(parts[1:], start=parts[0])


def _finish(pair: LabelsPair, scoring: Scoring, *parts: Measured) -> ScoredVolume:
    whole = sum(parts[1:], start=parts[0])
    _check_surfaces(pair, whole)
    scores = scores_of(
        pair.info.id, pair.classes, whole, spacing_mm=pair.info.spacing_mm, scoring=scoring
    )
    return ScoredVolume(pair, scores, placements=placements_of(whole.profiles))


def _check_surfaces(pair: LabelsPair, whole: Measured) -> None:
    number = sum(len(one.indices) for one in (*whole.borders, *whole.true_borders))
    if number > MAX_BORDER_VOXELS:
        raise MemoryBudgetError(
            f"{pair.info.id}: the masks have {number:,} border voxels, more than the"
            f" {MAX_BORDER_VOXELS:,} whose distances are taken; score it with"
            ' --set metrics=["dice","volume_error"]'
        )


def _read(labels: Labels, region: Box) -> NDArray[np.unsignedinteger]:
    voxels: NDArray[np.unsignedinteger] = labels.stored[region.slices]
    return voxels


def _scored(finished: Finished[_Group]) -> Iterator[ScoredVolume]:
    """What came of a group, or why nothing did."""
    pairs, started = finished.key
    found = finished.value if isinstance(finished.value, list) else [finished.value]
    reason = reason_of(finished.error) if finished.error else "no result"
    for pair, one in zip_longest(pairs, found):
        scored = one if isinstance(one, ScoredVolume) else ScoredVolume(pair, (), reason)
        yield replace(scored, seconds=time.monotonic() - started)
