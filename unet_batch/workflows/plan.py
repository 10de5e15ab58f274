"""Plan: what a segment Job would do and cost, with nothing run but a few tiles to time them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import torch

from unet_batch.inference.choosing import choose_engine, load_engine, seconds_per_tile
from unet_batch.inference.engine import Frame
from unet_batch.planning.partition import in_partition
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.survey import VolumeCost, survey
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo
from unet_batch.workflows.segment_job import SegmentJob

MAX_LOOKED_UP = 10_000
"""Volumes whose Labels are looked at one by one; of more, the Job's Ledger is believed."""


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
    chosen, catalog = (spec.volumes, spec.where), job.archive.catalog
    number = len(catalog.table((), *chosen))
    published = _published(job, number)
    planned: list[PlannedVolume] = []
    refused: dict[str, str] = {}
    on_gpus = torch.cuda.is_available()
    planner = job.planner(number, num_replicas=num_replicas, on_gpus=on_gpus)
    needs_affine = planner.grid.orientation is not None
    volumes = catalog.rows(*chosen) if needs_affine else catalog.briefs(*chosen)
    for volume, cost in survey(planner, in_partition(volumes, spec.partition)):
        if isinstance(cost, str):
            refused[volume.id] = cost
        else:
            planned.append(_planned(volume, cost, is_published=volume.id in published))
    return _summary(job, planned, refused, num_replicas, calibrate=calibrate)


def _summary(
    job: SegmentJob,
    volumes: list[PlannedVolume],
    refused: dict[str, str],
    num_replicas: int,
    *,
    calibrate: bool,
) -> PlanSummary:
    left = sum(volume.num_tiles for volume in volumes if not volume.is_published)
    pace = _pace(job) if calibrate else None
    return PlanSummary(
        job=job.id,
        volumes=tuple(volumes),
        refused=refused,
        num_tiles=sum(volume.num_tiles for volume in volumes),
        tiles_left=left,
        num_replicas=num_replicas,
        memory_bytes=max((volume.memory_bytes for volume in volumes), default=0),
        memory_budget=job.spec.resources.memory_budget,
        seconds_per_tile=pace,
        predicted_s=None if pace is None else pace * left / num_replicas,
    )


def _planned(
    volume: VolumeBrief | VolumeInfo, cost: VolumeCost, *, is_published: bool
) -> PlannedVolume:
    return PlannedVolume(
        volume_id=volume.id,
        shape_zyx=volume.shape_zyx,
        num_tiles=cost.num_tiles,
        num_blocks=cost.num_blocks,
        num_sweeps=cost.num_sweeps,
        memory_bytes=cost.memory_bytes,
        is_published=is_published,
    )


def _published(job: SegmentJob, num_volumes: int) -> Container[str]:
    """Ids of the Volumes whose Labels are those that this Job would make."""
    if num_volumes <= MAX_LOOKED_UP:
        return {info.id for info in job.infos if job.is_published(info)}
    return job.archive.ledger(job.id).done_with(job.model_hash)


def _pace(job: SegmentJob) -> float:
    """Seconds a tile of the Engine that the Job would use."""
    inference, frame = job.spec.inference, Frame.of(job.bundle, job.roi_zyx)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, batch_size, mirror = inference.precision, inference.batch_size, inference.mirror
    if inference.engine == "auto":
        choice = choose_engine(
            job.bundles,
            frame,
            precision=precision,
            device=device,
            batch_size=batch_size,
            mirror=mirror,
        )
        if choice.seconds_per_tile:
            return choice.seconds_per_tile[choice.kind]
    kind = "torch" if inference.engine == "auto" else inference.engine
    engine = load_engine(
        kind, job.bundles, frame, precision=precision, device=device, mirror=mirror
    )
    return seconds_per_tile(engine, batch_size=batch_size)
