"""Plan: what a segment Job would do and cost, with nothing run but a few tiles to time them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from unet_batch.planning.prediction import Account, Calibration, Work, predict
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.survey import VolumeCost, survey
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo
from unet_batch.workflows.calibration import calibrate as measured
from unet_batch.workflows.prediction import work_of
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

    `predicted` is what the Volumes take that are not published yet, on `num_replicas` Replicas:
    tiles, bytes of voxels and labels, and where `calibration` says how fast the model runs,
    seconds (`predicted_s`), memory and cost. `memory_bytes` is what the largest Block takes of
    the budget. `refused` maps a Volume to the reason for which it would be quarantined.
    """

    job: str
    volumes: tuple[PlannedVolume, ...]
    refused: dict[str, str]
    num_tiles: int
    tiles_left: int
    num_replicas: int
    memory_bytes: int
    memory_budget: int
    predicted_s: float | None
    predicted: Account
    calibration: Calibration | None


def plan(
    spec: SegmentSpec,
    *,
    num_replicas: int = 1,
    calibrate: bool = True,
    seconds_per_tile: float | None = None,
) -> PlanSummary:
    """Predict tiles, time, memory, bytes and cost of a Job.

    A few tiles are timed on this machine, unless their pace is given, or they were timed in the
    same circumstances before. Raises what `segment` raises before it begins.
    """
    job = SegmentJob.open(spec)
    published = job.published()
    planned: list[PlannedVolume] = []
    refused: dict[str, str] = {}
    on_gpus = torch.cuda.is_available()
    planner = job.planner(len(job.volumes), num_replicas=num_replicas, on_gpus=on_gpus)
    needs_affine = planner.grid.orientation is not None
    volumes: Iterable[VolumeBrief | VolumeInfo]
    volumes = job.infos if needs_affine else job.volumes.briefs()
    work, voxel_bytes = Work(), job.voxel_bytes
    for volume, cost in survey(planner, volumes):
        if isinstance(cost, str):
            refused[volume.id] = cost
            continue
        planned.append(_planned(volume, cost, is_published=volume.id in published))
        if volume.id not in published:
            work += work_of(volume, cost, voxel_bytes=voxel_bytes)
    found = _pace(job, work, num_replicas, calibrate=calibrate, given=seconds_per_tile)
    return _summary(job, planned, refused, work, num_replicas, found)


def _pace(
    job: SegmentJob, work: Work, num_replicas: int, *, calibrate: bool, given: float | None
) -> Calibration | None:
    """How fast the model runs: as given, as measured here, or not known."""
    if given is not None:
        return Calibration(given)
    if not calibrate:
        return None
    asked = job.spec.resources.cpus_per_replica
    threads = max(1, (os.cpu_count() or 1) // num_replicas) if asked == "auto" else asked
    return measured(job, num_tiles=work.num_tiles, num_threads=threads)


def _summary(
    job: SegmentJob,
    volumes: list[PlannedVolume],
    refused: dict[str, str],
    work: Work,
    num_replicas: int,
    calibration: Calibration | None,
) -> PlanSummary:
    resources = job.spec.resources
    account = predict(work, calibration, num_replicas=num_replicas, price=resources.price_per_hour)
    return PlanSummary(
        job=job.id,
        volumes=tuple(volumes),
        refused=refused,
        num_tiles=sum(volume.num_tiles for volume in volumes),
        tiles_left=work.num_tiles,
        num_replicas=num_replicas,
        memory_bytes=max((volume.memory_bytes for volume in volumes), default=0),
        memory_budget=resources.memory_budget,
        predicted_s=account.seconds,
        predicted=account,
        calibration=calibration,
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
        memory_bytes=cost.footprint.total,
        is_published=is_published,
    )
