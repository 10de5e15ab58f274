"""ArchiveCheck: gathers what scoring finds of each mask, and tells the odd ones when all are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unet_batch.evaluation.checks import (
    Finding,
    check_masks,
    count_kinds,
    facts_of,
    rank_of,
)
from unet_batch.evaluation.placement import Placement
from unet_batch.workflows.scoring import ScoredVolume


@dataclass(frozen=True, slots=True)
class CheckedVolume:
    """A Volume that stands out, and why."""

    volume_id: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of one Volume: no more, for there may be a hundred thousand."""

    volume_id: str
    affine: tuple[float, ...]
    shape_zyx: tuple[int, int, int]
    placements: Mapping[int, Placement]


class ArchiveCheck:
    """The odd Volumes among those that were added; holds some 300 bytes a Volume and class."""

    def __init__(self) -> None:
        self._volumes: list[_Known] = []
        self._names: dict[int, str] = {}
        self._findings: Mapping[str, tuple[Finding, ...]] | None = None

    def add(self, scored: ScoredVolume) -> None:
        """Take in one Volume. A class has the name that it first had."""
        info, classes = scored.pair.info, scored.pair.classes
        by_value = zip((c.value for c in classes), scored.placements, strict=True)
        self._volumes.append(_Known(info.id, info.affine, info.shape_zyx, dict(by_value)))
        self._names = {c.value: c.name for c in classes} | self._names
        self._findings = None

    def findings(self) -> Mapping[str, tuple[Finding, ...]]:
        """Those of every Volume, by id; empty where nothing is odd."""
        if self._findings is None:
            values = tuple(sorted(self._names))
            facts = [
                facts_of(
                    one.volume_id,
                    one.placements,
                    values,
                    affine=np.array(one.affine, np.float64).reshape(4, 4),
                    shape_zyx=one.shape_zyx,
                )
                for one in self._volumes
            ]
            self._findings = check_masks(facts, [self._names[value] for value in values])
        return self._findings

    def odd(self) -> tuple[CheckedVolume, ...]:
        """The Volumes with findings, the gravest first."""
        found = [(name, one) for name, one in self.findings().items() if one]
        found.sort(key=lambda item: (rank_of(item[1]), item[0]))
        return tuple(CheckedVolume(name, one) for name, one in found)

    def count_kinds(self) -> dict[str, int]:
        """Volumes by their gravest finding."""
        return count_kinds(self.findings())
