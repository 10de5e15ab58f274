from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.specs.recipe import AugmentationSpec
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive
from unet_batch.training import sampling
from unet_batch.training.sampling import PatchSampler
from unet_batch.training.task import plan_training
from unet_batch.training.volumes import MemoryBudget
from unet_batch.training.worker import open_volumes

PLAIN = AugmentationSpec(affine=0, contrast=0, gamma=0, noise=0, blur=0, low_resolution=0)


def sampler(archive: Archive, *, rank: int = 0, **changes: object) -> PatchSampler:
    fields: dict[str, object] = {
        "archive": archive.url,
        "truth": "truth",
        "out": "unused",
        "roi": (8, 8, 8),
        "network": {"arguments": {"channels": [4, 8]}},
        "training": {"batch_size": 3},
    }
    spec = TrainSpec.model_validate(fields | changes)
    task = plan_training(archive, spec)
    volumes = open_volumes(task, task.split.train, MemoryBudget(2**24))
    return PatchSampler(volumes, spec, rank=rank)


def test_a_batch_has_the_shape_of_the_spec(cubes: Callable[..., Archive]) -> None:
    batch = sampler(cubes(channels=2)).batch(1)
    assert batch.image.shape == (3, 2, 8, 8, 8)
    assert batch.truth.shape == (3, 1, 8, 8, 8)
    assert set(batch.truth.unique().tolist()) <= {0.0, 1.0}


def test_a_planar_batch_has_no_z(cubes: Callable[..., Archive]) -> None:
    network = {"spatial_dims": 2, "arguments": {"channels": [4, 8]}}
    batch = sampler(cubes(), network=network, roi=(8, 16)).batch(1)
    assert batch.image.shape == (3, 1, 8, 16)
    assert batch.truth.shape == (3, 1, 8, 16)


def test_step_and_rank_decide_what_is_drawn(cubes: Callable[..., Archive]) -> None:
    archive = cubes()
    first, again, other_rank = (sampler(archive, rank=rank) for rank in (0, 0, 1))
    assert torch.equal(first.batch(5).image, again.batch(5).image)
    assert not torch.equal(first.batch(5).image, first.batch(6).image)
    assert not torch.equal(first.batch(5).image, other_rank.batch(5).image)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_foreground_oversampling_centres_on_the_foreground(
    cubes: Callable[..., Archive], share: float
) -> None:
    training = {"batch_size": 40, "foreground_share": share}
    draws = sampler(
        cubes(shape=(40, 40, 40)), training=training, augmentation=PLAIN.model_dump()
    ).batch(1)
    found = float((draws.truth.flatten(1).amax(1) > 0).float().mean())
    assert found == 1.0 if share else found < 0.6


def test_a_volume_smaller_than_the_patch_lies_inside_it(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1, shape=(8, 8, 8))
    roi = {"roi": (16, 16, 16), "augmentation": PLAIN.model_dump()}
    batch = sampler(archive, **roi).batch(1)
    cube = archive["cube_0"].labels["truth"].array.compute() > 0
    assert batch.truth.flatten(1).sum(1).tolist() == [float(cube.sum())] * 3
    assert int((batch.image[0] != 0).sum()) <= 8**3


def test_patches_without_augmentation_are_copies_of_the_scan(
    cubes: Callable[..., Archive],
) -> None:
    archive = cubes(1)
    batch = sampler(archive, augmentation=PLAIN.model_dump()).batch(1)
    image = archive["cube_0"].image.compute()[0].astype(np.float64)
    values = (image - image.mean()) / image.std()
    windows = np.lib.stride_tricks.sliding_window_view(values, (8, 8, 8))
    error = np.abs(windows - batch.image[0, 0].numpy()).max(axis=(3, 4, 5)).min()
    assert error < 1e-3


def add_rare(archive: Archive) -> None:
    """One more Volume, the only one with a voxel of class 7."""
    voxels = np.random.default_rng(0).normal(100, 20, (1, 40, 40, 40)).astype(np.int16)
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[30, 30, 30] = 7
    classes = (LabelClass(0, "background"), LabelClass(7, "lesion"))
    archive.write_scan(Scan("rare", voxels, np.eye(4), ("c0",)), source={})
    archive["rare"].write_labels("truth", Mask(mask, np.eye(4), classes), provenance={})


NO_HOLDOUT = {"holdout_share": 0}


def drawn_with_a_rare_one(cubes: Callable[..., Archive]) -> tuple[PatchSampler, float]:
    """Of six Volumes and the rare one: who draws, and the share of patches that hold class 7."""
    archive = cubes(6, shape=(40, 40, 40))
    add_rare(archive)
    one = sampler(
        archive,
        split=NO_HOLDOUT,
        training={"batch_size": 60, "foreground_share": 1.0},
        augmentation=PLAIN.model_dump(),
    )
    return one, float((one.batch(1).truth.flatten(1) == 2).any(1).float().mean())


def test_a_class_that_one_volume_has_is_seen_as_often_as_the_others(
    cubes: Callable[..., Archive],
) -> None:
    _, has_rare = drawn_with_a_rare_one(cubes)
    assert 0.3 < has_rare < 0.7


def test_a_class_is_looked_for_only_where_the_labels_list_it(
    cubes: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_MOST_VOLUMES_TRIED", 1)
    one, has_rare = drawn_with_a_rare_one(cubes)
    assert 0.3 < has_rare < 0.7
    assert [sorted(volume.listed) for volume in one._volumes] == 6 * [[0, 1]] + [[0, 2]]


@pytest.mark.parametrize("by", ["class", "object"])
def test_the_spec_says_whether_objects_are_alike(cubes: Callable[..., Archive], by: str) -> None:
    one = sampler(cubes(), training={"foreground_by": by})
    one._volumes[0].draw_location(1, np.random.default_rng(0))
    assert one._volumes[0]._foreground_by == by


def test_partial_labels_say_which_classes_each_patch_tells_of(
    cubes: Callable[..., Archive],
) -> None:
    archive = cubes(3)
    add_rare(archive)
    training = {"batch_size": 30}
    whole = sampler(archive, split=NO_HOLDOUT, training=training)
    assert whole.batch(1).known is None
    known = sampler(archive, split=NO_HOLDOUT, training=training, partial_labels=True).batch(1)
    assert known.known is not None
    assert {tuple(one) for one in known.known.tolist()} == {
        (True, True, False),
        (True, False, True),
    }


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_boundary_weights_come_with_the_patches(
    cubes: Callable[..., Archive], spatial_dims: int
) -> None:
    changes = {
        "network": {"spatial_dims": spatial_dims, "arguments": {"channels": [4, 8]}},
        "roi": (12, 16, 16)[3 - spatial_dims :],
    }
    loss = {"boundary": 10, "boundary_sigma": 3}
    weighted = sampler(cubes(), training={"batch_size": 3, "loss": loss}, **changes).batch(1)
    assert weighted.weights is not None
    assert weighted.weights.shape == weighted.truth.shape
    assert float(weighted.weights.min()) == 1


def test_elastic_bends_the_patches(cubes: Callable[..., Archive]) -> None:
    archive = cubes()
    bent = {"elastic": 1.0, "elastic_sigma": 3.0, "elastic_spacing": 4}
    patches = [
        sampler(archive, augmentation=PLAIN.model_dump() | changes).batch(1).image
        for changes in ({}, bent)
    ]
    assert patches[0].shape == patches[1].shape
    assert not torch.allclose(*patches)


def test_threads_draw_what_one_alone_draws(cubes: Callable[..., Archive]) -> None:
    archive = cubes()
    alone = [sampler(archive).batch(step) for step in range(6)]
    shared = sampler(archive)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(shared.batch, range(6)))
    for ours, theirs in zip(alone, together, strict=True):
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.truth, theirs.truth)
