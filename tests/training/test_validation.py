from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

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
) -> dict[str, list[float]]:
    volumes = open_training_volumes(
        archive,
        list(archive),
        truth="truth",
        table=table,
        intensity=IntensitySpec(),
        budget=MemoryBudget(0),
        **fields,  # type: ignore[arg-type]
    )
    return score_volumes(
        Copy(planes),
        torch.nn.Identity(),
        volumes,
        table,
        device=torch.device("cpu"),
        precision="fp32",
    )


def halves_dice(archive: Archive, volume_id: str) -> float:
    truth = archive[volume_id].labels["truth"].array.compute() > 0
    left = truth[HALF[0].slices].sum()
    return float(2 * left / (left + truth.sum()))


def test_regions_add_up_to_the_dice_of_the_volume(cubes: Callable[..., Archive]) -> None:
    archive = cubes(4)
    found = scores(archive, ClassTable.of(LABELS), lambda truth: truth[None])
    for one in archive:
        assert found[one] == pytest.approx([halves_dice(archive, one)])


def test_overlapping_classes_are_scored_plane_by_plane(cubes: Callable[..., Archive]) -> None:
    archive = cubes(2)
    table = ClassTable.of(LABELS, "sigmoid", {"any": (4,), "again": (4,)})
    planes = lambda truth: np.stack([(truth > 0) * 1, truth * 0]).astype(np.uint8)  # noqa: E731
    found = scores(archive, table, planes)
    for one in archive:
        assert found[one] == pytest.approx([halves_dice(archive, one), 0])


def test_a_class_that_the_truth_does_not_tell_of_has_no_score(
    cubes: Callable[..., Archive],
) -> None:
    archive = cubes(1)
    table = ClassTable.of((*LABELS, LabelClass(7, "lesion")))
    invent = lambda truth: np.full_like(truth, 7)[None]  # noqa: E731
    assert scores(archive, table, invent)["cube_0"] == [0, 0]
    partial = scores(archive, table, invent, partial_labels=True)["cube_0"]
    assert partial[0] == 0
    assert math.isnan(partial[1])


def test_a_class_that_no_mask_has_does_not_count() -> None:
    mean, by_class = mean_dice([[0.5, math.nan], [0.7, 0.8]])
    assert by_class == [0.6, 0.8]
    assert mean == 0.7
    assert math.isnan(mean_dice([[math.nan]])[0])
