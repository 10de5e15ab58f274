"""Pipeline: the Steps of a Spec one after the other, each on what the one before left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unet_batch.planning.specs.postprocess import (
    Closing,
    FillHoles,
    LargestComponent,
    Opening,
    PostprocessStep,
    RemoveSmall,
)
from unet_batch.planning.volume_info import LabelClass
from unet_batch.postprocessing.holes import fill_holes
from unet_batch.postprocessing.morphology import close_masks, open_masks
from unet_batch.postprocessing.regions import Sink, Source, Work, structure_for
from unet_batch.postprocessing.removal import Components, keep_components, largest
from unet_batch.tiling.box import Box, Index


class Scratch(Source, Sink, Protocol):
    """Labels between two Steps: written once, then read."""


def postprocess(
    steps: Sequence[PostprocessStep],
    source: Source,
    sink: Sink,
    *,
    shape_zyx: Index,
    region_zyx: Index,
    classes: Sequence[LabelClass],
    voxel_mm3: float,
    scratch: Callable[[int], Scratch],
) -> None:
    """Carry out `steps` on labels of `shape_zyx` voxels, from `source` to `sink`.

    Parameters
    ----------
    steps: in order; where there are none the labels are copied.
    source, sink: read in any boxes, in several passes; written once, by regions.
    region_zyx: voxels of a region, which is what is held in memory at once.
    classes: of the labels, the background (value 0) included or not.
    voxel_mm3: volume of a voxel.
    scratch: room for the labels that the Step of this number leaves to the next.

    Raises SpecError where a Step names a class that is none of `classes`.
    """
    regions = list(Box.from_shape(shape_zyx).split(region_zyx))
    if not steps:
        for region in regions:
            sink.write(region, source.read(region))
    for number, step in enumerate(steps):
        is_last = number == len(steps) - 1
        target = sink if is_last else (room := scratch(number))
        structure = structure_for(step.connectivity, shape_zyx)
        work = Work(source, target, shape_zyx, regions, step.masks(classes), structure)
        _carry_out(step, work, voxel_mm3)
        source = source if is_last else room


def _carry_out(step: PostprocessStep, work: Work, voxel_mm3: float) -> None:
    match step:
        case LargestComponent():
            keep_components(work, largest)
        case RemoveSmall():
            keep_components(work, lambda found: _is_large(found, step, voxel_mm3))
        case FillHoles():
            fill_holes(work)
        case Opening():
            open_masks(work, step.iterations)
        case Closing():
            close_masks(work, step.iterations)


def _is_large(found: Components, step: RemoveSmall, voxel_mm3: float) -> NDArray[np.bool_]:
    if step.min_voxels is not None:
        return found.sizes >= step.min_voxels
    return found.sizes * voxel_mm3 >= (step.min_mm3 or 0.0)
