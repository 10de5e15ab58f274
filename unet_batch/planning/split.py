"""Which Volumes train and which are held back: one pure rule for train, demo and evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from unet_batch.errors import SpecError
from unet_batch.planning.specs.train import SplitSpec


@dataclass(frozen=True, slots=True)
class Split:
    """Ids of the Volumes to train on and of those held back, each sorted, without overlap."""

    train: tuple[str, ...]
    held_back: tuple[str, ...]


def split_volumes(volume_ids: Iterable[str], spec: SplitSpec) -> Split:
    """Split `volume_ids` as `spec` says.

    The order of the ids does not matter. Each id is ranked by a hash of itself and the seed,
    so a Volume added later moves at most a few others across. At least one Volume is held
    back where the share is above 0, and at least one trains.

    Raises SpecError where an id of `spec.holdout` is unknown or nothing is left to train on.
    """
    ids = sorted(set(volume_ids))
    if spec.holdout:
        held_back = set(_known(spec.holdout, ids))
    else:
        ranked = sorted(ids, key=lambda one: _rank(one, spec.seed))
        held_back = set(ranked[: _num_held_back(len(ids), spec.holdout_share)])
    train = tuple(one for one in ids if one not in held_back)
    if not train:
        raise SpecError(
            f"no Volume is left to train on: {len(ids)} selected, {len(held_back)} held back;"
            " lower split.holdout_share or select more Volumes"
        )
    return Split(train, tuple(sorted(held_back)))


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


def _rank(volume_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{volume_id}".encode()).hexdigest()
