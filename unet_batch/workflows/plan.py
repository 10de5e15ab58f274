"""Plan: what a segment Job would do and cost, with nothing run but a few tiles to time them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unet_batch.inference.engine import TorchEngine
from unet_batch.inference.timing import seconds_per_tile
from unet_batch.planning.plan import Plan
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.workflows.segment_job import SegmentJob


@dataclass(frozen=True, slots=True)
class PlannedVolume:
    """One Volume of the Plan: its tiles, Blocks and Sweeps, and a Replica's memory for it."""

    volume_id: str
    shape_zyx: tuple[int, int, int]
    num_tiles: int
    num_blocks: int
    num_sweeps: int
    memory_bytes: int
    is_published: bool


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What the Job would do.

    `predicted_s` is the network's time for the tiles that are not published yet, shared by
    `num_replicas`; None where it was not timed. `refused` maps a Volume to the reason for
    which it would be quarantined before work begins.
    """

    job: str
    volumes: tuple[PlannedVolume, ...]
    refused: dict[str, str]
    num_tiles: int
    tiles_left: int
    num_replicas: int
    memory_bytes: int
    memory_budget: int
    seconds_per_tile: float | None
    predicted_s: float | None


def plan(spec: SegmentSpec, *, num_replicas: int = 1, calibrate: bool = True) -> PlanSummary:
    """Predict tiles, memory and time of a Job. Raises what `segment` raises before it begins."""
    job = SegmentJob.open(spec)
    whole = job.plan(job.infos, num_replicas=num_replicas)
    volumes = tuple(_planned(job, whole, volume_id) for volume_id in whole.volumes)
    left = sum(volume.num_tiles for volume in volumes if not volume.is_published)
    pace = _pace(job) if calibrate else None
    return PlanSummary(
        job=job.id,
        volumes=volumes,
        refused=whole.refused,
        num_tiles=whole.num_tiles,
        tiles_left=left,
        num_replicas=num_replicas,
        memory_bytes=max((volume.memory_bytes for volume in volumes), default=0),
        memory_budget=spec.resources.memory_budget,
        seconds_per_tile=pace,
        predicted_s=None if pace is None else pace * left / num_replicas,
    )


def _planned(job: SegmentJob, whole: Plan, volume_id: str) -> PlannedVolume:
    volume = whole.volumes[volume_id]
    return PlannedVolume(
        volume_id=volume_id,
        shape_zyx=volume.info.shape_zyx,
        num_tiles=volume.num_tiles,
        num_blocks=volume.layout.num_blocks,
        num_sweeps=len(volume.layout.sweeps),
        memory_bytes=whole.planner.footprint(volume).total,
        is_published=job.is_published(volume.info),
    )


def _pace(job: SegmentJob) -> float:
    inference = job.spec.inference
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = TorchEngine.from_bundle(
        job.bundle, roi_zyx=job.roi_zyx, precision=inference.precision, device=device
    )
    return seconds_per_tile(engine, batch_size=inference.batch_size)
