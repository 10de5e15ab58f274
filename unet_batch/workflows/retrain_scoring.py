"""Scores of a version on held-back Volumes, by the engine that will run it: segment, then score.

The masks stay in the Archive as Labels `retrain.<model>.v<number>`: what was predicted before a
crash is not predicted again, and a champion's masks serve every challenger after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unet_batch.errors import SpecError
from unet_batch.evaluation.measuring import Scoring
from unet_batch.monitoring.events import Listener
from unet_batch.planning.challenge import Dice
from unet_batch.planning.model_versions import ModelVersion
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive
from unet_batch.storage.registry import Registry
from unet_batch.workflows.dask_window import default_window
from unet_batch.workflows.pairs import LabelsPair
from unet_batch.workflows.scoring import score_pairs, select_pairs
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob

_DICE = Scoring(metrics=("dice",))


@dataclass(frozen=True, slots=True)
class ScoredVersion:
    """What a version reached.

    Attributes
    ----------
    dice: by Volume id and class.
    failed: why a Volume has no score.
    pairs: mask and truth by Volume id, for pictures; one of several where classes overlap.
    """

    version: ModelVersion
    labels: str
    dice: Mapping[str, Dice]
    failed: Mapping[str, str]
    pairs: Mapping[str, LabelsPair]


def score_version(
    version: ModelVersion,
    volume_ids: Sequence[str],
    spec: RetrainSpec,
    *,
    archive: Archive,
    registry: Registry,
    listen: Listener,
) -> ScoredVersion:
    """Segment `volume_ids` with `version`, what is not yet, and score them against the truth."""
    request = SegmentSpec(
        archive=archive.url,
        model=str(version),
        registry=registry.url,
        labels=f"retrain.{version.name}.v{version.version}",
        volumes=tuple(volume_ids),
        inference=spec.inference,
        resources=spec.resources,
        allow_quarantined=len(volume_ids),
        trust_network=spec.train.trust_network,
    )
    summary = segment(request, listen=listen)
    failed = dict(summary.quarantined)
    dice: dict[str, dict[str, float | None]] = {}
    pairs: dict[str, LabelsPair] = {}
    job = SegmentJob.open(request.model_copy(update={"truth": spec.truth}))
    for labels, truth in job.labels_truths.items():
        for found in _scored(archive, volume_ids, labels, truth, failed):
            by_class = dice.setdefault(found[0].info.id, {})
            by_class.update(found[1])
            pairs.setdefault(found[0].info.id, found[0])
    return ScoredVersion(version, request.labels, dice, failed, pairs)


def _scored(
    archive: Archive, volume_ids: Sequence[str], labels: str, truth: str, failed: dict[str, str]
) -> list[tuple[LabelsPair, Dice]]:
    """Pairs with their Dice; what cannot be scored goes into `failed`."""
    wanted = [one for one in volume_ids if one not in failed]
    if not wanted:
        return []
    try:
        selection = select_pairs(archive, wanted, labels=labels, truth=truth)
    except SpecError as error:
        failed.update(dict.fromkeys(wanted, str(error)))
        return []
    failed.update(selection.failed)
    failed.update(dict.fromkeys(selection.without_labels, f"has no Labels {labels!r}"))
    failed.update(dict.fromkeys(selection.without_truth, f"has no truth {truth!r} any more"))
    found: list[tuple[LabelsPair, Dice]] = []
    for scored in score_pairs(selection.pairs, window=default_window(), scoring=_DICE):
        if scored.reason:
            failed[scored.pair.info.id] = scored.reason
        else:
            found.append((scored.pair, {one.class_name: one.dice for one in scored.scores}))
    return found
