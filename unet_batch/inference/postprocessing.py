"""Post-processing as a Ray task: from the labels as predicted to those that are published.

    labels/liver/<key>-raw/  ──step 0──> <key>-step0/ ──step 1──> ... ──> <key>/

What the Replicas made waits in a stage until all regions of a Volume are there. Every Step
reads one place and writes another, so the task can be killed anywhere and run again to the
same bytes. Stages go once the last Step is stored whole. Like `writing`, no torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from time import perf_counter

import numpy as np
import ray

from unet_batch.errors import UnetBatchError
from unet_batch.inference.reading import IO_CPUS
from unet_batch.inference.writing import Done
from unet_batch.planning.specs.postprocess import PostprocessStep, steps_for
from unet_batch.postprocessing.pipeline import Scratch
from unet_batch.postprocessing.pipeline import postprocess as carry_out
from unet_batch.postprocessing.regions import InMemory
from unet_batch.storage.labels_set import LabelsSet
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.stores import limit_zarr_threads

RAW = "raw"
"""The stage that the labels are written to as they are predicted."""

HELD_BYTES = 2**26
"""Labels up to this size wait in memory between two Steps, larger ones in a stage."""


@ray.remote(num_cpus=IO_CPUS, max_retries=3)
def postprocess(work: Sequence[tuple[LabelsSet, tuple[PostprocessStep, ...]]]) -> Done:
    """Carry out the Steps on the Labels of each Volume, all of whose regions are written."""
    started, num_bytes = perf_counter(), 0
    limit_zarr_threads()
    failures: dict[str, str] = {}
    for labels, steps in work:
        try:
            for writer in labels.writers:
                num_bytes += finish_labels(writer, steps)
        except (UnetBatchError, OSError) as error:
            failures[labels.volume_id] = f"post-processing Labels {labels.name!r} failed: {error}"
    return Done(perf_counter() - started, num_bytes, failures)


def finish_labels(writer: LabelsWriter, steps: Sequence[PostprocessStep]) -> int:
    """Make the labels of `writer` from those of its stage RAW; bytes of labels. May be repeated.

    Raises NotFoundError or StoreError where a stage cannot be read or written, and
    MemoryBudgetError where the labels are noise.
    """
    raw, concerned = writer.staged(RAW), steps_for(steps, writer.classes)
    stages = [writer.staged(f"step{number}") for number in range(len(concerned) - 1)]
    num_bytes = prod(writer.shape_zyx) * np.dtype(writer.dtype).itemsize
    if writer.missing_regions():
        raw.prepare()
        carry_out(
            concerned,
            raw,
            writer,
            shape_zyx=writer.shape_zyx,
            region_zyx=writer.shard_zyx,
            classes=writer.classes,
            voxel_mm3=_voxel_mm3(writer),
            scratch=lambda number: _room(stages[number], num_bytes),
        )
    for stage in (raw, *stages):
        stage.discard()
    return num_bytes


def _room(stage: LabelsWriter, num_bytes: int) -> Scratch:
    if num_bytes <= HELD_BYTES:
        return InMemory(np.empty(stage.shape_zyx, stage.dtype))
    stage.prepare()
    return stage


def _voxel_mm3(writer: LabelsWriter) -> float:
    """What the affine makes of a voxel, sheared or not."""
    affine = np.reshape(writer.affine, (4, 4))
    return float(abs(np.linalg.det(affine[:3, :3])))
