"""Patches drawn from the Volumes of an Archive, with foreground oversampling.

What a step sees depends only on (seed, rank, step): a training that resumes from step 500
draws from there what it would have drawn undisturbed, and no two ranks draw the same.

Of the patches, `foreground_share` are centred on a labelled voxel. Its class is drawn first,
all being as likely, and then a Volume that has it, among those whose Labels list it: a class that
one Volume in a hundred has, or a lesion of five voxels, is seen as often as the liver.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.planning.specs.train import TrainSpec
from unet_batch.tiling.box import Box
from unet_batch.training.augmentation.intensity import change_intensity
from unet_batch.training.augmentation.placement import (
    Placement,
    draw_matrix,
    draw_moves,
    reach,
    warp,
)
from unet_batch.training.batch import Batch
from unet_batch.training.boundary import boundary_weights
from unet_batch.training.volumes import TrainingVolume

_MOST_VOLUMES_TRIED = 256
"""Volumes that list a class and are searched for it before a patch is drawn anywhere.

Each is searched once. Masks that were ingested without names list what they hold.
"""


class PatchSampler:
    """Draws the patches of one rank; from several threads, if need be.

    `volumes` are opened on first use and kept in memory as far as they fit.
    """

    def __init__(
        self, volumes: Sequence[TrainingVolume], spec: TrainSpec, *, rank: int = 0
    ) -> None:
        self._volumes = volumes
        self._spec = spec
        self._rank = rank
        self._is_planar = spec.network.spatial_dims == 2
        self._roi_zyx = (1, *spec.tile) if self._is_planar else spec.tile
        self._listing = [
            [one for one in volumes if index in one.listed]
            for index in range(volumes[0].num_values)
        ]

    def batch(self, step: int) -> Batch:
        """The patches of `step`."""
        rng = np.random.default_rng([self._spec.training.seed, self._rank, step])
        volumes, images, truths = zip(
            *(self._patch(rng) for _ in range(self._spec.training.num_patches)), strict=True
        )
        image, truth = torch.stack(images), torch.stack(truths)
        weights = self._boundary_weights(truth)
        known = torch.tensor([one.known for one in volumes])
        if self._is_planar:
            image, truth = image.squeeze(2), truth.squeeze(2)
        return Batch(image, truth, None if known.all() else known, weights)

    def _patch(self, rng: np.random.Generator) -> tuple[TrainingVolume, torch.Tensor, torch.Tensor]:
        augmentation, is_planar = self._spec.augmentation, self._is_planar
        volume, location = self._draw_place(rng)
        spacing, roi = volume.spacing_mm, self._roi_zyx
        centre = self._draw_centre(volume, location, rng)
        matrix = draw_matrix(augmentation, spacing, rng, is_planar=is_planar)
        moves = draw_moves(augmentation, spacing, roi, rng, is_planar=is_planar)
        region = _region(volume.shape_zyx, centre, reach(matrix, roi, moves))
        image, truth = volume.read(region)
        place = Placement(matrix, centre - np.array(region.start), roi, moves)
        image, truth = warp(image, truth, place)
        return volume, change_intensity(image, augmentation, rng, is_planar=is_planar), truth

    def _draw_place(
        self, rng: np.random.Generator
    ) -> tuple[TrainingVolume, NDArray[np.int64] | None]:
        """A Volume, and the labelled voxel to centre on, if it is to be one."""
        training = self._spec.training
        if rng.random() < training.foreground_share:
            index = int(rng.integers(1, self._volumes[0].num_values))
            listing = self._listing[index]
            for number in rng.permutation(len(listing))[:_MOST_VOLUMES_TRIED]:
                volume = listing[number]
                location = volume.draw_location(index, rng)
                if location is not None:
                    return volume, location
        return self._volumes[int(rng.integers(len(self._volumes)))], None

    def _draw_centre(
        self,
        volume: TrainingVolume,
        location: NDArray[np.int64] | None,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """A patch centre (zyx, voxel edges) that wastes no voxel on what lies outside.

        Along an axis where the Volume is longer than the patch, the patch lies inside it;
        where it is shorter, it lies inside the patch.
        """
        near = np.array(self._roi_zyx) / 2
        far = np.array(volume.shape_zyx) - near
        low, high = np.minimum(near, far), np.maximum(near, far)
        wanted = rng.uniform(low, high) if location is None else location + 0.5
        centre = np.clip(wanted, low, high)
        # Whole voxels, so that a patch that is neither turned nor scaled is an exact copy.
        return np.asarray(np.round(centre - near) + near)

    def _boundary_weights(self, truth: torch.Tensor) -> torch.Tensor | None:
        """Weights (n, 1, *roi) of patches (n, 1, z, y, x), where the loss asks for them."""
        loss = self._spec.training.loss
        if not loss.boundary:
            return None
        weights = [
            boundary_weights(
                one.squeeze(0).numpy() if self._is_planar else one.numpy(),
                w0=loss.boundary,
                sigma=loss.boundary_sigma,
            )
            for one in truth[:, 0]
        ]
        return torch.from_numpy(np.stack(weights))[:, None]


def _region(
    shape_zyx: Sequence[int], centre: NDArray[np.float64], extent: NDArray[np.float64]
) -> Box:
    """The part of the Volume that a patch looks at."""
    start = np.floor(centre - extent + 1e-6).astype(int)
    stop = np.ceil(centre + extent - 1e-6).astype(int)
    seen = Box(tuple(start.tolist()), tuple(stop.tolist()))
    return seen & Box.from_shape(shape_zyx)
