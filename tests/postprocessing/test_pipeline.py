"""Steps follow each other, the same for any regions, and hold no more than one region."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.planning.volume_info import LabelClass
from unet_batch.postprocessing.pipeline import postprocess
from unet_batch.postprocessing.regions import InMemory
from unet_batch.tiling.box import Box

STEPS: list[dict[str, Any]] = [
    {"step": "closing", "iterations": 2},
    {"step": "fill_holes", "together": True},
    {"step": "opening", "connectivity": 2},
    {"step": "remove_small", "min_voxels": 4, "connectivity": 3},
    {"step": "largest_component", "classes": ["liver"]},
]


@given(seed=st.integers(0, 2**31), order=st.permutations(STEPS), number=st.integers(1, 5))
def test_any_regions_give_the_labels_of_one_region(
    run_steps: Any, make_labels: Any, seed: int, order: Any, number: int
) -> None:
    labels, region = make_labels(seed)
    whole = run_steps(labels, *order[:number], region=labels.shape)
    np.testing.assert_array_equal(run_steps(labels, *order[:number], region=region), whole)


def test_without_steps_the_labels_are_copied(run_steps: Any, make_labels: Any) -> None:
    labels, region = make_labels(3)
    assert (run_steps(labels, region=region) == labels).all()


def test_steps_follow_their_order(run_steps: Any) -> None:
    labels = np.zeros((1, 1, 7), np.uint16)
    labels[0, 0] = [2, 0, 2, 0, 0, 2, 2]
    largest, close = {"step": "largest_component"}, {"step": "closing"}
    first = run_steps(labels, largest, close, region=(1, 1, 2))
    last = run_steps(labels, close, largest, region=(1, 1, 2))
    assert first[0, 0].tolist() == [0, 0, 0, 0, 0, 2, 2]
    assert last[0, 0].tolist() == [2, 2, 2, 2, 2, 2, 2]


@dataclass
class Spheres:
    """Hollow spheres every 24 voxels, made where they are read; what is written is dropped.

    They touch in none of the volumes, so the tables grow with the volume, but little.
    """

    largest_read: int = 0

    def read(self, box: Box) -> NDArray[np.uint8]:
        self.largest_read = max(self.largest_read, box.num_voxels)
        z, y, x = (np.arange(a, b) % 24 - 12 for a, b in zip(box.start, box.stop, strict=True))
        away = (z**2)[:, None, None] + (y**2)[:, None] + x**2
        return ((away <= 100) & (away > 36)).astype(np.uint8)

    def write(self, region: Box, voxels_zyx: NDArray[Any]) -> None:
        assert voxels_zyx.shape == region.shape


def peak_bytes(step: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, int]:
    spheres = Spheres()
    tracemalloc.start()
    try:
        postprocess(
            [TypeAdapter(PostprocessStep).validate_python(step)],
            spheres,
            spheres,
            shape_zyx=shape,
            region_zyx=(32, 32, 32),
            classes=[LabelClass(1, "shell")],
            voxel_mm3=1,
            scratch=lambda _: InMemory(np.empty(0)),
        )
        return tracemalloc.get_traced_memory()[1], spheres.largest_read
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("step", [*STEPS[:4], {"step": "largest_component"}])
def test_memory_is_that_of_a_region_however_large_the_volume(step: dict[str, Any]) -> None:
    small, _ = peak_bytes(step, (64, 64, 64))
    large, largest_read = peak_bytes(step, (1024, 64, 64))
    assert largest_read <= 40**3
    more_regions = (1024 - 64) * 64 * 64 // 32**3
    assert large - small < 2048 * more_regions  # tables; the regions' voxels are 32 KiB each
