"""Post-processing: seconds of one core that each Step takes of a 256³ volume.

Smooth random blobs with speckle, as of a network that is unsure; 1 and 13 classes. The labels
lie in one region, as those of a volume of this size do, and in 64.
"""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy import ndimage

from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.planning.volume_info import LabelClass
from unet_batch.postprocessing.pipeline import postprocess
from unet_batch.postprocessing.regions import InMemory

EDGE = 256
REPEATS = 3
STEPS: list[dict[str, Any]] = [
    {"step": "largest_component"},
    {"step": "largest_component", "connectivity": 3},
    {"step": "remove_small", "min_voxels": 100},
    {"step": "fill_holes"},
    {"step": "opening"},
    {"step": "closing"},
    {"step": "closing", "iterations": 3},
    {"step": "fill_holes", "together": True},
]


def blobs(num_classes: int) -> NDArray[np.uint8]:
    """About a third foreground, shared by `num_classes`; a voxel in 200 is flipped."""
    random = np.random.default_rng(0)
    best = np.full((EDGE,) * 3, 0.5 if num_classes == 1 else 1.8, np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for value in range(1, num_classes + 1):
        coarse = random.standard_normal((16, 16, 16)).astype(np.float32)
        field = ndimage.zoom(ndimage.gaussian_filter(coarse, 1), EDGE // 16, order=1)
        field /= field.std()
        labels[field > best] = value
        np.maximum(best, field, out=best)
    speckle = random.random(best.shape, np.float32) < 0.005
    labels[speckle] = random.integers(0, num_classes + 1, int(speckle.sum()), dtype=np.uint8)
    return labels


def seconds(step: dict[str, Any], labels: NDArray[np.uint8], region: int, classes: int) -> float:
    """Median over REPEATS of the Step on `labels`, in regions of `region`³ voxels."""
    times = []
    for _ in range(REPEATS):
        started = perf_counter()
        postprocess(
            [TypeAdapter(PostprocessStep).validate_python(step)],
            InMemory(labels),
            InMemory(np.empty_like(labels)),
            shape_zyx=labels.shape,
            region_zyx=(region,) * 3,
            classes=[LabelClass(value, str(value)) for value in range(classes + 1)],
            voxel_mm3=1.0,
            scratch=lambda _: InMemory(np.empty_like(labels)),
        )
        times.append(perf_counter() - started)
    return median(times)


def main() -> int:
    """Print the table."""
    volumes = {classes: blobs(classes) for classes in (1, 13)}
    for classes, labels in volumes.items():
        print(f"{classes} classes: {(labels > 0).mean():.0%} of the voxels are foreground")
    print(f"{'step':58} {'1 class':>9} {'13':>7} {'13, 64 regions':>15}")
    for step in STEPS:
        cells = [seconds(step, volumes[1], EDGE, 1), seconds(step, volumes[13], EDGE, 13)]
        cells.append(seconds(step, volumes[13], EDGE // 4, 13))
        name = ", ".join(str(v) if k == "step" else f"{k} {v}" for k, v in step.items())
        print(f"{name:58} {cells[0]:8.2f}s {cells[1]:6.2f}s {cells[2]:14.2f}s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
