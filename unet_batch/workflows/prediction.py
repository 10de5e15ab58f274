"""What a segment Job was predicted to take, kept beside what it took."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import numpy as np

from unet_batch.inference.pool import ReplicaSize
from unet_batch.monitoring.events import Event, StageTimed
from unet_batch.planning.plan import Plan
from unet_batch.planning.prediction import Account, Work, account, deviations, predict
from unet_batch.planning.survey import VolumeCost, survey
from unet_batch.planning.volume_info import Json, VolumeBrief, VolumeInfo
from unet_batch.storage.ledger import Ledger
from unet_batch.workflows.calibration import known_calibration
from unet_batch.workflows.segment_job import SegmentJob

ACCOUNT = "account"
"""The document of a Job that holds both."""


def work_of(volume: VolumeBrief | VolumeInfo, cost: VolumeCost, *, voxel_bytes: int) -> Work:
    """What a Volume that is not published yet adds; `voxel_bytes` are written of a voxel."""
    return Work(
        num_volumes=1,
        num_tiles=cost.num_tiles,
        bytes_read=volume.num_voxels * np.dtype(volume.dtype).itemsize * len(volume.channels),
        bytes_written=volume.num_voxels * voxel_bytes,
        block_bytes=cost.footprint.total - cost.footprint.model,
    )


@dataclass(slots=True)
class Bookkeeper:
    """A Listener that holds what a Job takes against what it was predicted to take.

    The prediction is that of a machine on which `plan` has measured the same model before;
    without that, of tiles and bytes alone.
    """

    job: SegmentJob
    size: ReplicaSize
    predicted: Account
    actual: Account = field(default_factory=partial(Account, 0, 0, 0))
    memory_bytes: int = 0

    @classmethod
    def of(cls, job: SegmentJob, plan: Plan, size: ReplicaSize, published: Set[str]) -> Bookkeeper:
        """The Bookkeeper of a Job that carries out `plan`, all but what is `published`."""
        volumes: Iterable[VolumeBrief | VolumeInfo] = job.volumes.briefs(without=published)
        if plan.planner.grid.orientation is not None:  # needs the affine of each
            volumes = (volume.info for volume in plan.volumes.values())
        work, voxel_bytes = Work(), job.voxel_bytes
        for volume, cost in survey(plan.planner, volumes):
            if not isinstance(cost, str):
                work += work_of(volume, cost, voxel_bytes=voxel_bytes)
        known = known_calibration(job, num_tiles=work.num_tiles, num_threads=size.num_cpus)
        price = job.spec.resources.price_per_hour
        return cls(job, size, predict(work, known, num_replicas=size.count, price=price))

    def __call__(self, event: Event) -> None:
        """Add up what a piece of work moved."""
        if not isinstance(event, StageTimed):
            return
        now = self.actual
        if event.stage == "read":
            self.actual = replace(now, bytes_read=now.bytes_read + event.num_bytes)
        elif event.stage == "write":
            written = event.num_voxels * self.job.voxel_bytes
            self.actual = replace(now, bytes_written=now.bytes_written + written)
        elif event.stage == "predict":
            self.actual = replace(now, tiles=now.tiles + event.num_tiles + event.num_skipped)
            self.memory_bytes = max(self.memory_bytes, event.peak_rss_bytes)

    def close(self, ledger: Ledger, seconds: float) -> None:
        """Settle what the Job took; it is kept in its Ledger beside the prediction."""
        price = self.job.spec.resources.price_per_hour
        actual = account(self.actual, seconds, self.memory_bytes, self.size.count, price)
        self.actual = actual
        if not (self.predicted.tiles or actual.tiles):
            return  # nothing was left to do: what the run before took stands
        missed: dict[str, Json] = {**deviations(self.predicted, actual)}
        ledger.keep(
            ACCOUNT,
            {
                "predicted": self.predicted.to_json(),
                "actual": actual.to_json(),
                "deviations": missed,
                "replicas": self.size.count,
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
