"""Labels of several classes at random, and a Step carried out on them region by region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.planning.volume_info import LabelClass
from unet_batch.postprocessing.pipeline import postprocess
from unet_batch.postprocessing.regions import InMemory

CLASSES = (
    LabelClass(0, "background"),
    LabelClass(2, "liver"),
    LabelClass(1, "tumour"),
    LabelClass(300, "spleen"),
)

Labels = NDArray[np.uint16]


def apply(
    labels: Labels, *steps: dict[str, Any], region: tuple[int, ...], voxel_mm3: float = 1
) -> Labels:
    """The labels after the Steps, with a check that none is changed where it is read."""
    before = labels.copy()
    labels.flags.writeable = False
    result = InMemory(np.full_like(labels, 9))
    postprocess(
        [TypeAdapter(PostprocessStep).validate_python(step) for step in steps],
        InMemory(labels),
        result,
        shape_zyx=labels.shape,
        region_zyx=region,
        classes=CLASSES,
        voxel_mm3=voxel_mm3,
        scratch=lambda _: InMemory(np.full_like(labels, 9)),
    )
    np.testing.assert_array_equal(labels, before)
    return result.voxels_zyx


def random_labels(seed: int) -> tuple[Labels, tuple[int, ...]]:
    """Blobs of three classes in a small volume, sparse or dense, and the shape of a region.

    Every third volume is flat.
    """
    random = np.random.default_rng(seed)
    shape = random.integers(1 if seed % 4 == 0 else 6, 15, 3)
    shape[0] = 1 if seed % 3 == 0 else shape[0]
    grain = 1 + seed % 5 // 2
    shares = [(0.6, 0.2, 0.15, 0.05), (0.15, 0.75, 0.05, 0.05)][seed % 2]
    coarse = random.choice([0, 1, 2, 300], size=-(-shape // grain), p=shares).astype(np.uint16)
    fine = coarse.repeat(grain, 0).repeat(grain, 1).repeat(grain, 2)
    labels = fine[: shape[0], : shape[1], : shape[2]].copy()
    return labels, tuple(int(n) for n in random.integers(1, 8, 3))


@pytest.fixture(scope="session")
def run_steps() -> Callable[..., Labels]:
    return apply


@pytest.fixture(scope="session")
def make_labels() -> Callable[[int], tuple[Labels, tuple[int, ...]]]:
    return random_labels
