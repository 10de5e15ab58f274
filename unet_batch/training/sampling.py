"""Patches drawn from the Volumes of an Archive, with foreground oversampling, read ahead.

What a step sees depends only on (seed, rank, step): a training that resumes from step 500
draws from there what it would have drawn undisturbed, and no two ranks draw the same.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.planning.specs.train import TrainSpec
from unet_batch.tiling.box import Box
from unet_batch.training.augmentation import (
    Matrix,
    Placement,
    change_intensity,
    draw_matrix,
    reach,
    warp,
)
from unet_batch.training.volumes import TrainingVolume

_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches of one step: `image` (n, c, *roi) float32, `truth` (n, 1, *roi) class indices."""

    image: torch.Tensor
    truth: torch.Tensor


class PatchSampler:
    """Draws the patches of one rank.

    `volumes` are opened on first use and kept in memory as far as they fit.
    """

    def __init__(
        self, volumes: Sequence[TrainingVolume], spec: TrainSpec, *, rank: int = 0
    ) -> None:
        self._volumes = volumes
        self._spec = spec
        self._rank = rank
        self._is_planar = spec.network.spatial_dims == 2
        self._roi_zyx = (1, *spec.roi) if self._is_planar else spec.roi

    def batch(self, step: int) -> Batch:
        """The patches of `step`."""
        rng = np.random.default_rng([self._spec.training.seed, self._rank, step])
        patches = [self._patch(rng) for _ in range(self._spec.training.batch_size)]
        image = torch.stack([image for image, _ in patches])
        truth = torch.stack([truth for _, truth in patches])
        if self._is_planar:
            image, truth = image.squeeze(2), truth.squeeze(2)
        return Batch(image, truth)

    def _patch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        volume = self._volumes[int(rng.integers(len(self._volumes)))]
        augmentation = self._spec.augmentation
        matrix = draw_matrix(augmentation, volume.spacing_mm, rng, is_planar=self._is_planar)
        centre = self._draw_centre(volume, rng)
        region = _region(volume.shape_zyx, matrix, centre, self._roi_zyx)
        image, truth = volume.read(region)
        place = Placement(matrix, centre - np.array(region.start), self._roi_zyx)
        image, truth = warp(image, truth, place)
        image = change_intensity(image, augmentation, rng, is_planar=self._is_planar)
        return image, truth

    def _draw_centre(self, volume: TrainingVolume, rng: np.random.Generator) -> NDArray[np.float64]:
        """A patch centre (zyx, voxel edges) that wastes no voxel on what lies outside.

        Along an axis where the Volume is longer than the patch, the patch lies inside it;
        where it is shorter, it lies inside the patch.
        """
        near = np.array(self._roi_zyx) / 2
        far = np.array(volume.shape_zyx) - near
        low, high = np.minimum(near, far), np.maximum(near, far)
        centre = rng.uniform(low, high)
        if rng.random() < self._spec.training.foreground_share:
            location = volume.draw_foreground(rng)
            if location is not None:
                centre = np.clip(location + 0.5, low, high)
        # Whole voxels, so that a patch that is neither turned nor scaled is an exact copy.
        return np.asarray(np.round(centre - near) + near)


class ReadAhead:
    """Makes the batches of `first` to `last` in a thread, at most `depth` ahead of their use.

    An error in the thread is raised by the `next` that would have returned its batch.
    """

    def __init__(
        self, make: Callable[[int], Batch], *, first: int, last: int, depth: int = 4
    ) -> None:
        self._make = make
        self._steps = range(first, last + 1)
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._thread.join()

    def next(self) -> Batch:
        """The next step's Batch; waits until it is made."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _run(self) -> None:
        # Beside the network's own threads; more than one here would take their cores.
        torch.set_num_threads(1)
        for step in self._steps:
            try:
                item: Batch | BaseException = self._make(step)
            except BaseException as error:  # noqa: BLE001 (raised again in the reading thread)
                item = error
            if not self._put(item) or isinstance(item, BaseException):
                return

    def _put(self, item: Batch | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_WAIT_S)
            except queue.Full:
                continue
            return True
        return False


def _region(
    shape_zyx: Sequence[int],
    matrix: Matrix,
    centre: NDArray[np.float64],
    roi_zyx: Sequence[int],
) -> Box:
    """The part of the Volume that the patch looks at."""
    extent = reach(matrix, roi_zyx)
    start = np.floor(centre - extent + 1e-6).astype(int)
    stop = np.ceil(centre + extent - 1e-6).astype(int)
    seen = Box(tuple(start.tolist()), tuple(stop.tolist()))
    return seen & Box.from_shape(shape_zyx)
