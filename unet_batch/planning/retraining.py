"""What a retraining learns from, what it is judged on, and whether there is anything new.

Each Volume is held back or not by a hash of its patient, or of its own content where no patient
is known, whatever else there is:

    sha256(seed : patient or content hash)  below share * 2^256   held back, for ever
                                            above                 learnt from

so that a Volume labelled next month moves nobody across, and no challenger ever learns from
what a champion was scored on, nor from another scan of the same patient. Only what the champion
itself used goes before the rule, even where it had a patient on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from unet_batch.errors import SpecError
from unet_batch.planning.model_versions import DataUse, UsedVolume
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.retrain import HeldBackSpec, RetrainSpec
from unet_batch.planning.specs.train import SplitSpec


class Round(SpecModel):
    """One retraining from what it collected to its decision; the same after a crash.

    Attributes
    ----------
    request: digest of what was asked for, in so far as it decides the challenger.
    champion: the version to beat; None where there is none yet.
    num_new: Volumes that were labelled, or whose truth changed, since the champion.
    challenger: the version that was trained; None until it is.
    """

    request: str
    champion: int | None
    data: DataUse
    num_new: int = Field(ge=0)
    challenger: int | None = None
    is_finished: bool = False

    @property
    def id(self) -> str:
        """8 hex digits: the same request on the same Volumes against the same champion."""
        content = self.model_dump_json(exclude={"challenger", "is_finished", "num_new"})
        return hashlib.sha256(content.encode()).hexdigest()[:8]


def request_digest(spec: RetrainSpec) -> str:
    """What of a RetrainSpec decides the challenger; rules of promotion and means do not.

    >>> len(request_digest(RetrainSpec(archive="a", truth="t", model="m", work="w")))
    16
    """
    recipe = spec.train.digest(*(set(type(spec.train).model_fields) - {"resources"}))
    chosen = spec.digest("archive", "truth", "volumes", "where", "held_back")
    return hashlib.sha256(f"{chosen} {recipe}".encode()).hexdigest()[:16]


def split(
    volumes: Sequence[UsedVolume], rule: HeldBackSpec, *, known: DataUse | None = None
) -> DataUse:
    """The Volumes to learn from and those held back.

    `known` is what the champion used: what was held back from it stays so, and so does what it
    learnt from, even of one patient; other Volumes follow their patient, if one of his was among
    these (held back goes first), and all others go by their hash. Where none would be held back,
    those closest to the rule's bound are. Raises SpecError where nothing is left to learn from.
    """
    known = known or DataUse()
    keys = _keys([*known.train, *known.held_back, *volumes], rule)
    sides: dict[str, bool] = {}  # whether held back, by content hash and by key
    for used, is_held_back in ((known.train, False), (known.held_back, True)):
        for one in used:
            sides[one.content_hash] = sides[keys[one.content_hash]] = is_held_back
    present = {keys[one.content_hash] for one in volumes}
    ranks = {key: _rank(key, rule.seed) for key in sorted(present)}
    free = ranks.keys() - sides.keys()
    sides |= {key: ranks[key] < rule.share for key in free}
    if free and not any(sides.values()):
        sides[min(free, key=ranks.__getitem__)] = True
    ordered = sorted(volumes, key=lambda one: one.volume_id)
    is_held = [sides.get(one.content_hash, sides[keys[one.content_hash]]) for one in ordered]
    use = DataUse(
        train=tuple(one for one, held in zip(ordered, is_held, strict=True) if not held),
        held_back=tuple(one for one, held in zip(ordered, is_held, strict=True) if held),
    )
    if not use.train or not use.held_back:
        what = "to learn from" if not use.train else "to be held back"
        how = f"label more of them, or change held_back.share ({rule.share})"
        if len(ranks) == 1 < len(ordered):
            how = "all are of one patient: label others, or set held_back.by_patient: false"
        raise SpecError(f"none of the {len(ordered)} Volumes with a truth is left {what}; {how}")
    return use


def _keys(volumes: Iterable[UsedVolume], rule: HeldBackSpec) -> dict[str, str]:
    """What decides on which side the Volumes are, by content hash: a patient, where one is known.

    A Bundle that was added by hand names no patients, but the Archive may, of the same contents.
    """
    keys: dict[str, str] = {}
    for one in volumes:
        if rule.by_patient and one.patient:
            keys[one.content_hash] = one.patient
        keys.setdefault(one.content_hash, one.content_hash)
    return keys


def watched(train: Sequence[UsedVolume], rule: SplitSpec) -> SplitSpec:
    """How a training on `train` is watched: by `rule`, or not at all where it knows one patient.

    None of his other scans would tell how the training goes.
    """
    patients = {one.patient or one.content_hash for one in train}
    if not rule.by_patient or rule.holdout or len(patients) > 1:
        return rule
    return rule.model_copy(update={"holdout_share": 0.0})


def new_since(volumes: Iterable[UsedVolume], known: DataUse | None) -> tuple[UsedVolume, ...]:
    """The Volumes that `known` did not use, or used with another truth.

    A scan that was known before truths were noted (a Bundle trained by hand) is not new.
    """
    used = [] if known is None else [*known.train, *known.held_back]
    truths = {one.content_hash: one.truth_key for one in used}
    return tuple(
        one
        for one in volumes
        if one.content_hash not in truths or truths[one.content_hash] not in {"", one.truth_key}
    )


def why_not_to_train(
    spec: RetrainSpec,
    volumes: Sequence[UsedVolume],
    *,
    known: Mapping[str, DataUse],
) -> str | None:
    """Why there is nothing to train on yet; None where there is.

    `known` has what was used by those that new Volumes have to be new to, by name: the
    champion, and the latest challenger of the same request that it withstood, since the same
    Volumes would give the same network again.
    """
    for version, data in known.items():
        num_new = len(new_since(volumes, data))
        if num_new < spec.min_new:
            return (
                f"{num_new} of {len(volumes)} Volumes with the truth {spec.truth!r} are new since"
                f" {version}, and min_new is {spec.min_new} (0 trains all the same)"
            )
    return None


def _rank(key: str, seed: int) -> float:
    """From 0 to 1, even over all keys."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
