"""Which Volumes train and which are held back: one pure rule for train, demo and evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unet_batch.errors import SpecError
from unet_batch.planning.specs.train import SplitSpec


@dataclass(frozen=True, slots=True)
class Split:
    """Ids of the Volumes to train on and of those held back, each sorted, without overlap."""

    train: tuple[str, ...]
    held_back: tuple[str, ...]


def split_volumes(patients: Mapping[str, str], spec: SplitSpec) -> Split:
    """Split the Volumes, whose ids are the keys of `patients`, as `spec` says.

    `patients` gives each Volume's patient, `` where that is not known: two scans of one patient
    are alike, and a score on one is no news to a network that learnt from the other. Each
    patient, or Volume of nobody known, is ranked by a hash of itself and the seed, so a Volume
    added later moves at most a few patients across, and the order does not matter. At least one
    Volume is held back where the share is above 0, and at least one trains.

    Raises SpecError where an id of `spec.holdout` is unknown, nothing is left to train on, or
    nothing could be held back because all Volumes are of one patient.
    """
    ids = sorted(patients)
    if spec.holdout:
        held_back = set(_known(spec.holdout, ids))
    else:
        held_back = _ranked_first(ids, patients if spec.by_patient else {}, spec)
    train = tuple(one for one in ids if one not in held_back)
    if not train:
        raise SpecError(
            f"no Volume is left to train on: {len(ids)} selected, {len(held_back)} held back;"
            " lower split.holdout_share or select more Volumes"
        )
    return Split(train, tuple(sorted(held_back)))


def _ranked_first(ids: list[str], patients: Mapping[str, str], spec: SplitSpec) -> set[str]:
    """The Volumes held back: whole patients, by rank, as close to the share as they come."""
    groups: dict[str, list[str]] = {}
    for one in ids:
        groups.setdefault(patients.get(one) or one, []).append(one)
    wanted = _num_held_back(len(ids), spec.holdout_share)
    if wanted and len(groups) == 1:
        raise SpecError(
            f"all {len(ids)} Volumes are of one patient, so none that is held back would be new to"
            " the network; select others as well, name some in split.holdout, or set"
            " split.by_patient: false or split.holdout_share: 0"
        )
    ranked = sorted(groups, key=lambda one: _rank(one, spec.seed))
    held_back: set[str] = set()
    for key in ranked:
        missing, left = wanted - len(held_back), len(ids) - len(held_back)
        is_closer = 0 < len(groups[key]) <= 2 * missing
        if is_closer and len(groups[key]) < left:
            held_back.update(groups[key])
    if wanted and not held_back:
        held_back.update(groups[min(ranked, key=lambda one: len(groups[one]))])
    return held_back


def _known(holdout: Iterable[str], ids: list[str]) -> list[str]:
    missing = sorted(set(holdout) - set(ids))
    if missing:
        raise SpecError(
            f"split.holdout names {', '.join(missing)}, not among the {len(ids)} Volumes selected"
        )
    return sorted(set(holdout))


def _num_held_back(num_volumes: int, share: float) -> int:
    if share == 0:
        return 0
    return min(max(round(num_volumes * share), 1), num_volumes - 1)


def _rank(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()
