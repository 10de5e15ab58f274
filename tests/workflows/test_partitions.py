"""Partitions of a Job: together the whole, each with a Ledger of its own, the same Labels."""

from __future__ import annotations

from pathlib import Path

from unet_batch.planning.specs.segment import PartitionSpec
from unet_batch.workflows.plan import plan
from unet_batch.workflows.segment_job import SegmentJob
from unet_batch.workflows.soak_job import make_job


def test_partitions_share_the_volumes_and_make_the_same_labels(tmp_path: Path) -> None:
    spec = make_job(tmp_path, num_large=1, num_small=8)
    whole = SegmentJob.open(spec)
    shares = [
        SegmentJob.open(spec.model_copy(update={"partition": PartitionSpec(index=k, of=3)}))
        for k in range(3)
    ]
    chosen = [info for share in shares for info in share.infos]
    assert sorted(info.id for info in chosen) == [info.id for info in whole.infos]
    assert len({share.id for share in (whole, *shares)}) == 4
    for share in shares:
        assert [share.key(info) for info in share.infos] == [
            whole.key(info) for info in share.infos
        ]


def test_a_plan_is_of_the_partition_too(tmp_path: Path) -> None:
    spec = make_job(tmp_path, num_large=1, num_small=4)
    own = spec.model_copy(update={"partition": PartitionSpec(index=1, of=2)})
    summary = plan(own, calibrate=False)
    job = SegmentJob.open(own)
    assert [volume.volume_id for volume in summary.volumes] == [info.id for info in job.infos]
    assert 0 < len(job.infos) < 5
