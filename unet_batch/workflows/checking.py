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
from unet_batch.planning.volume_info import LabelClass, VolumeInfo
from unet_batch.workflows.scoring import ScoredVolume


@dataclass(frozen=True, slots=True)
class CheckedVolume:
    """A Volume that stands out, and why."""

    volume_id: str
    findings: tuple[Finding, ...]


class ArchiveCheck:
    """The odd Volumes among those that were added; holds some 300 bytes a Volume and class."""

    def __init__(self) -> None:
        self._volumes: list[tuple[VolumeInfo, tuple[Placement, ...], tuple[LabelClass, ...]]] = []
        self._findings: Mapping[str, tuple[Finding, ...]] | None = None

    def add(self, scored: ScoredVolume) -> None:
        """Take in one Volume."""
        self._volumes.append((scored.pair.info, scored.placements, scored.pair.classes))
        self._findings = None

    def findings(self) -> Mapping[str, tuple[Finding, ...]]:
        """Those of every Volume, by id; empty where nothing is odd."""
        if self._findings is None:
            names = self._names()
            facts = [
                facts_of(
                    info.id,
                    {c.value: one for c, one in zip(classes, placements, strict=True)},
                    tuple(names),
                    affine=np.array(info.affine, np.float64).reshape(4, 4),
                    shape_zyx=info.shape_zyx,
                )
                for info, placements, classes in self._volumes
            ]
            self._findings = check_masks(facts, tuple(names.values()))
        return self._findings

    def odd(self) -> tuple[CheckedVolume, ...]:
        """The Volumes with findings, the gravest first."""
        found = [(name, one) for name, one in self.findings().items() if one]
        found.sort(key=lambda item: (rank_of(item[1]), item[0]))
        return tuple(CheckedVolume(name, one) for name, one in found)

    def count_kinds(self) -> dict[str, int]:
        """Volumes by their gravest finding."""
        return count_kinds(self.findings())

    def _names(self) -> dict[int, str]:
        """Every class value with the name that it first had."""
        names: dict[int, str] = {}
        for _, _, classes in self._volumes:
            names = {c.value: c.name for c in classes} | names
        return {value: names[value] for value in sorted(names)}
