from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from unet_batch.evaluation.measuring import Scoring, score_masks
from unet_batch.evaluation.scores import Score
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box
from unet_batch.training.targets import ClassTable
from unet_batch.training.validation import Voxels, mean_dice, score_volumes
from unet_batch.training.volumes import MemoryBudget, open_training_volumes

LABELS = (LabelClass(0, "background"), LabelClass(4, "cube"))
HALF = Box((0, 0, 0), (12, 20, 8)), Box((0, 0, 8), (12, 20, 16))


class Copy:
    """Segments by copying the truth of the left half: `planes` makes planes of it."""

    def __init__(self, planes: Callable[[Voxels], Voxels]) -> None:
        self._planes = planes

    def __call__(
        self, network: torch.nn.Module, volumes: Sequence[Volume], **fields: object
    ) -> Iterator[tuple[str, Box, Voxels]]:
        for volume in volumes:
            left = volume.labels["truth"].stored[HALF[0].slices]
            yield volume.id, HALF[0], self._planes(left)
            yield volume.id, HALF[1], self._planes(np.zeros_like(left))


def scores(
    archive: Archive, table: ClassTable, planes: Callable[[Voxels], Voxels], **fields: object
) -> dict[str, dict[str, float | None]]:
    volumes = open_training_volumes(
        archive,
        {one: [kind.value for kind in archive[one].labels["truth"].classes] for one in archive},
        truth="truth",
        table=table,
        intensity=IntensitySpec(),
        budget=MemoryBudget(0),
        **fields,  # type: ignore[arg-type]
    )
    found = score_volumes(
        Copy(planes),
        torch.nn.Identity(),
        volumes,
        table,
        device=torch.device("cpu"),
        precision="fp32",
    )
    return {one: {score.class_name: score.dice for score in row} for one, row in found.items()}


def halves_dice(archive: Archive, volume_id: str) -> float:
    truth = archive[volume_id].labels["truth"].array.compute() > 0
    left = truth[HALF[0].slices].sum()
    return float(2 * left / (left + truth.sum()))


def test_regions_add_up_to_the_dice_of_the_volume(cubes: Callable[..., Archive]) -> None:
    archive = cubes(4)
    found = scores(archive, ClassTable.of(LABELS), lambda truth: truth[None])
    for one in archive:
        assert found[one] == pytest.approx({"cube": halves_dice(archive, one)})


def test_overlapping_classes_are_scored_plane_by_plane(cubes: Callable[..., Archive]) -> None:
    archive = cubes(2)
    table = ClassTable.of(LABELS, "sigmoid", {"any": (4,), "again": (4,)})
    planes = lambda truth: np.stack([(truth > 0) * 1, truth * 0]).astype(np.uint8)  # noqa: E731
    found = scores(archive, table, planes)
    for one in archive:
        assert found[one] == pytest.approx({"any": halves_dice(archive, one), "again": 0})


def test_a_class_that_the_truth_does_not_tell_of_has_no_score(
    cubes: Callable[..., Archive],
) -> None:
    archive = cubes(1)
    table = ClassTable.of((*LABELS, LabelClass(7, "lesion")))
    invent = lambda truth: np.full_like(truth, 7)[None]  # noqa: E731
    assert scores(archive, table, invent)["cube_0"] == {"cube": 0, "lesion": 0}
    partial = scores(archive, table, invent, partial_labels=True)["cube_0"]
    assert partial == {"cube": 0}


def test_a_class_that_no_mask_has_does_not_count() -> None:
    def score(name: str, dice: float | None) -> Score:
        return Score("a", len(name), name, dice, 1, 1, 1, 1, 1)

    known = [score("organ", 0.5), score("cyst", None), score("organ", 0.7), score("cyst", 0.8)]
    named = [replace(one, volume_id=f"v{k // 2}") for k, one in enumerate(known)]
    assert mean_dice(named) == pytest.approx(0.7)
    assert math.isnan(mean_dice([score("organ", None)]))


def test_at_the_end_surfaces_of_regions_give_those_of_the_volume(
    cubes: Callable[..., Archive],
) -> None:
    archive = cubes(1)
    table = ClassTable.of(LABELS)
    volumes = open_training_volumes(
        archive,
        dict.fromkeys(archive, table.values),
        truth="truth",
        table=table,
        intensity=IntensitySpec(),
        budget=MemoryBudget(0),
    )
    found = score_volumes(
        Copy(lambda truth: truth[None]),
        torch.nn.Identity(),
        volumes,
        table,
        device=torch.device("cpu"),
        precision="fp32",
        scoring=Scoring(),
    )
    truth = archive["cube_0"].labels["truth"].stored[:]
    mask = truth.copy()
    mask[HALF[1].slices] = 0
    spacing = archive["cube_0"].spacing_mm
    assert found["cube_0"] == score_masks("cube_0", mask, truth, LABELS[1:], spacing_mm=spacing)
