from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing

from unet_batch.errors import SpecError
from unet_batch.models.intensity import Normalizer
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive
from unet_batch.tiling.box import Box
from unet_batch.training.targets import ClassTable
from unet_batch.training.volumes import MemoryBudget, TrainingVolume, open_training_volumes

CLASSES = (LabelClass(0, "background"), LabelClass(4, "cube"))
REGION = Box((2, 3, 4), (10, 15, 12))


def opened(
    archive: Archive,
    max_bytes: int,
    classes: tuple[LabelClass, ...] = CLASSES,
    grid: GridSpec = OWN_GRID,
) -> list[TrainingVolume]:
    return open_training_volumes(
        archive,
        {one: [label.value for label in classes] for one in archive},
        truth="truth",
        table=ClassTable.of(classes),
        intensity=IntensitySpec(),
        budget=MemoryBudget(max_bytes),
        grid=grid,
    )


def test_memory_and_zarr_give_the_same_region(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1)
    (kept,), (streamed,) = opened(archive, 2**20), opened(archive, 0)
    for ours, theirs in zip(kept.read(REGION), streamed.read(REGION), strict=True):
        assert torch.equal(ours, theirs)


def test_a_region_is_normalised_and_its_truth_holds_class_indices(
    cubes: Callable[..., Archive],
) -> None:
    archive = cubes(1)
    (volume,) = opened(archive, 2**20)
    image, truth = volume.read(Box.from_shape(volume.shape_zyx))
    assert abs(float(image.mean())) < 1e-3
    stored = archive["cube_0"].labels["truth"].array.compute()
    assert np.array_equal(truth.numpy(), stored // 4)


def test_foreground_is_drawn_from_labelled_voxels(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1)
    stored = archive["cube_0"].labels["truth"].array.compute()
    rng = np.random.default_rng(0)
    for max_bytes in (0, 2**20):
        (volume,) = opened(archive, max_bytes)
        drawn = [volume.draw_location(1, rng) for _ in range(50)]
        assert all(stored[tuple(one)] == 4 for one in drawn if one is not None)
        assert len({tuple(one) for one in drawn if one is not None}) > 10


def test_volumes_share_the_budget(cubes: Callable[..., Archive]) -> None:
    archive = cubes(3)
    volumes = opened(archive, 2 * 12 * 20 * 16 * 3)
    kept = [volume._open() is not None for volume in volumes]
    assert kept == [True, True, False]


def test_a_value_that_is_no_class_is_named(cubes: Callable[..., Archive]) -> None:
    other = (LabelClass(0, "background"), LabelClass(1, "cube"))
    (volume,) = opened(cubes(1), 2**20, other)
    with pytest.raises(SpecError, match=r"cube_0.*\[4\]"):
        volume.read(Box.from_shape(volume.shape_zyx))


def test_a_volume_without_foreground_has_none_to_draw(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1)
    (volume,) = opened(archive, 2**20, (*CLASSES, LabelClass(7, "absent")))
    assert volume.draw_location(2, np.random.default_rng(0)) is None


SAGITTAL = np.array([[3.0, 0, 0, 5], [0, 0, -1, 7], [0, 1, 0, 2], [0, 0, 0, 1]])  # z R, y S, x P
FINER = GridSpec(spacing_mm=(1.5, None, 1.5), orientation="LPS")


def test_regions_of_another_grid_are_monais(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1, affine=SAGITTAL)
    (volume,) = opened(archive, 0, grid=FINER)
    assert (volume.shape_zyx, volume.spacing_mm) == ((14, 16, 23), (1.5, 1.0, 1.5))
    info = archive["cube_0"].info
    raw = torch.from_numpy(archive["cube_0"].image.compute())
    normal = Normalizer.fit(IntensitySpec(), info.statistics).apply(raw)
    mask = archive["cube_0"].labels["truth"].array.compute()[None] // 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turned = Orientation("SPL")(MetaTensor(normal, affine=SAGITTAL))
        theirs = Spacing((1.5, -1, 1.5))(turned)
        turned = Orientation("SPL")(MetaTensor(mask.astype(np.float32), affine=SAGITTAL))
        truth_theirs = Spacing((1.5, -1, 1.5), mode="nearest")(turned)[0]
    image, truth = volume.read(REGION)
    np.testing.assert_allclose(image, theirs[:, *REGION.slices], atol=1e-5)
    assert (truth.numpy() == np.asarray(truth_theirs[REGION.slices])).mean() > 0.98


def test_foreground_of_another_grid_is_near_the_labelled_voxels(
    cubes: Callable[..., Archive],
) -> None:
    (volume,) = opened(cubes(1, affine=SAGITTAL), 2**20, grid=FINER)
    _, truth = volume.read(Box.from_shape(volume.shape_zyx))
    rng = np.random.default_rng(0)
    drawn = [volume.draw_location(1, rng) for _ in range(50)]
    hits = [int(truth[tuple(one)]) for one in drawn if one is not None]
    assert len(hits) == 50
    assert np.mean(hits) > 0.8


def test_kept_on_another_grid_a_region_has_the_same_bits(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1, affine=SAGITTAL)
    (kept,), (streamed,) = (opened(archive, size, grid=FINER) for size in (2**20, 0))
    for ours, theirs in zip(kept.read(REGION), streamed.read(REGION), strict=True):
        assert torch.equal(ours, theirs)
    assert kept._open() is not None
    draws = [
        [one.draw_location(1, np.random.default_rng(k)) for k in range(9)]
        for one in (kept, streamed)
    ]
    assert np.array_equal(*draws)


def test_what_labels_do_not_list_is_unknown_only_where_labels_are_partial(
    cubes: Callable[..., Archive],
) -> None:
    archive, more = cubes(1), (*CLASSES, LabelClass(9, "lesion"))
    fields = {
        "truth": "truth",
        "table": ClassTable.of(more),
        "intensity": IntensitySpec(),
        "budget": MemoryBudget(0),
    }
    listed = dict.fromkeys(archive, (0, 4))
    (whole,) = open_training_volumes(archive, listed, **fields)  # type: ignore[arg-type]
    (partial,) = open_training_volumes(archive, listed, **fields, partial_labels=True)  # type: ignore[arg-type]
    assert whole.known == (True, True, True)
    assert partial.known == (True, True, False)


def test_the_truth_is_read_on_the_scans_own_grid(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1, affine=SAGITTAL)
    (volume,) = opened(archive, 0, grid=FINER)
    stored = archive["cube_0"].labels["truth"].array.compute()
    assert np.array_equal(volume.read_truth(REGION), stored[REGION.slices])
