"""`network.name: auto` in a TrainSpec: network, roi and batch size filled in from the scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from unet_batch.planning.network_plan import Scans, plan_network
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.train import AUTO, TrainRecipe
from unet_batch.planning.volume_info import VolumeInfo

AnyRecipe = TypeVar("AnyRecipe", bound=TrainRecipe)


def settle_network(
    recipe: AnyRecipe,
    infos: Sequence[VolumeInfo],
    *,
    grid: GridSpec,
    spacing_mm: Sequence[float],
    num_classes: int,
    itemsize: int,
) -> tuple[AnyRecipe, tuple[str, ...]]:
    """The recipe with numbers where it says auto, and why they are what they are.

    `infos` are the Volumes to train on, `grid` the network's, without a median, on which they
    have the median `spacing_mm` (z, y, x); activations take `itemsize` bytes a voxel. A named
    network comes back as it is, without reasons. Raises MemoryBudgetError where nothing fits.
    """
    network, training = recipe.network, recipe.training
    if network.name != AUTO:
        return recipe, ()
    plan = plan_network(
        scans_of(infos, grid, spacing_mm, spatial_dims=network.spatial_dims),
        in_channels=len(infos[0].channels),
        num_classes=num_classes,
        memory_budget=network.memory_budget,
        itemsize=itemsize,
        roi=None if recipe.roi == AUTO else recipe.roi,
        batch_size=None if training.batch_size == AUTO else training.batch_size,
    )
    settled = recipe.model_copy(
        update={
            "network": network.model_copy(
                update={"name": "dynunet", "arguments": plan.arguments()}
            ),
            "roi": plan.roi,
            "training": training.model_copy(update={"batch_size": plan.batch_size}),
        }
    )
    return settled, plan.reasons


def scans_of(
    infos: Sequence[VolumeInfo],
    grid: GridSpec,
    spacing_mm: Sequence[float],
    *,
    spatial_dims: int,
) -> Scans:
    """The Volumes on `grid` as a network of `spatial_dims` sees them: whole, or slice by slice."""
    maps = [grid.map_of(info) for info in infos]
    shapes = [
        grid_map.model_shape if grid_map else info.shape_zyx
        for grid_map, info in zip(maps, infos, strict=True)
    ]
    skipped = 3 - spatial_dims
    return Scans(
        tuple(tuple(shape[skipped:]) for shape in shapes),
        tuple(spacing_mm[skipped:]),
        sum(z * y * x for z, y, x in shapes),
    )
