"""Scores of a network on whole held-back Volumes while it trains, and when it has.

Who segments them comes from outside (`Segmenter`): the tile engine, so that a validation sees
what a Job will make of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.evaluation.measuring import Measured, Scoring, measure_region, scores_of
from unet_batch.evaluation.scores import Score
from unet_batch.evaluation.summary import summarise
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box
from unet_batch.training.targets import ClassTable
from unet_batch.training.volumes import TrainingVolume

Voxels = NDArray[np.unsignedinteger]

DICE = Scoring(metrics=("dice",))
"""What is looked at while a network trains; surfaces cost more than it can spare."""


class Segmenter(Protocol):
    """Segments whole Volumes with a network as it is now; travels to the workers."""

    def __call__(
        self,
        network: torch.nn.Module,
        volumes: Sequence[Volume],
        *,
        device: torch.device,
        precision: Literal["fp32", "bf16"],
    ) -> Iterator[tuple[str, Box, Voxels]]:
        """Regions that make up each Volume, and their label values (p, *region).

        There is one plane, or where classes overlap one a class, 0 where it is not.
        """
        ...


def score_volumes(
    segment: Segmenter,
    network: torch.nn.Module,
    volumes: Sequence[TrainingVolume],
    table: ClassTable,
    *,
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    scoring: Scoring = DICE,
) -> dict[str, tuple[Score, ...]]:
    """Scores of each class but the background by Volume id, on each scan's own grid.

    There is none of a class that a Volume's truth does not tell of. Region by region: no mask
    of a whole Volume is ever held, only its surfaces where `scoring` wants them.
    """
    by_id = {one.id: one for one in volumes}
    counted: dict[str, list[Measured]] = {}
    inside = [one.volume for one in volumes]
    for one, region, planes in segment(network, inside, device=device, precision=precision):
        truth = by_id[one].read_truth(region)
        found = [
            measure_region(
                *masks,
                values,
                region=region,
                shape_zyx=by_id[one].volume.info.shape_zyx,
                has_surfaces=scoring.has_surfaces,
            )
            for masks, values in _masks(planes, truth, table)
        ]
        sofar = counted.get(one)
        counted[one] = [a + b for a, b in zip(sofar, found, strict=True)] if sofar else found
    return {one: _known_scores(counted[one], by_id[one], table, scoring) for one in by_id}


def mean_dice(scores: Iterable[Score]) -> float:
    """The mean over the classes of each one's mean Dice; NaN where no Volume has any class."""
    mean = summarise(scores, metrics=("dice",)).mean_dice
    return float("nan") if mean is None else mean


def _masks(
    planes_pzyx: Voxels, truth_zyx: Voxels, table: ClassTable
) -> Iterator[tuple[tuple[Voxels, Voxels], list[int]]]:
    """Mask and truth with the class values to count in them: all at once, or plane by plane."""
    if table.activation == "softmax":
        yield (planes_pzyx[0], truth_zyx), [one.value for one in table.foreground]
        return
    for channel, plane in enumerate(planes_pzyx):
        member = np.isin(truth_zyx, table.member_values(channel))
        yield ((plane > 0).astype(np.uint8), member.astype(np.uint8)), [1]


def _known_scores(
    counted: Sequence[Measured], volume: TrainingVolume, table: ClassTable, scoring: Scoring
) -> tuple[Score, ...]:
    """The scores of the classes that the Volume's truth tells of."""
    classes = table.foreground
    groups = [classes] if table.activation == "softmax" else [(one,) for one in classes]
    spacing = volume.volume.spacing_mm
    scores = [
        score
        for group, measured in zip(groups, counted, strict=True)
        for score in scores_of(volume.id, group, measured, spacing_mm=spacing, scoring=scoring)
    ]
    known = volume.known[table.first_foreground :]
    return tuple(score for score, tells in zip(scores, known, strict=True) if tells)
