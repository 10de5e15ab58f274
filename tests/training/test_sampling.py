from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from unet_batch.planning.specs.train import AugmentationSpec, TrainSpec
from unet_batch.storage.archive import Archive
from unet_batch.training.sampling import Batch, PatchSampler, ReadAhead
from unet_batch.training.task import plan_training
from unet_batch.training.volumes import MemoryBudget, open_training_volumes

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
    volumes = open_training_volumes(
        archive,
        task.split.train,
        truth="truth",
        classes=task.classes,
        intensity=spec.intensity,
        budget=MemoryBudget(2**24),
    )
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


def constant(step: int) -> Batch:
    return Batch(torch.full((1,), float(step)), torch.zeros(1))


def test_reading_ahead_keeps_the_order_of_the_steps() -> None:
    with ReadAhead(constant, first=3, last=9, depth=2) as ahead:
        assert [float(ahead.next().image) for _ in range(7)] == [3, 4, 5, 6, 7, 8, 9]


def test_reading_ahead_stops_at_its_depth() -> None:
    made: list[int] = []
    reached = threading.Event()

    def make(step: int) -> Batch:
        made.append(step)
        if step == 3:
            reached.set()
        return constant(step)

    with ReadAhead(make, first=1, last=100, depth=2):
        assert reached.wait(10)
    assert made == [1, 2, 3]


def test_an_error_in_the_thread_is_raised_where_its_batch_is_asked_for() -> None:
    def make(step: int) -> Batch:
        if step == 2:
            raise ValueError("truncated")
        return constant(step)

    with ReadAhead(make, first=1, last=3) as ahead:
        ahead.next()
        with pytest.raises(ValueError, match="truncated"):
            ahead.next()


def test_reading_ahead_leaves_no_thread_behind() -> None:
    with ReadAhead(constant, first=1, last=50) as ahead:
        ahead.next()
    assert not any(one.name == "read-ahead" for one in threading.enumerate())


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
