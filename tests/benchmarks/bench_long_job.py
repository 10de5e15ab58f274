"""A segment Job of one million Volumes: how soon its first Block is known, in how much memory.

    python tests/benchmarks/bench_long_job.py [number of Volumes]

The Catalog is that of `bench_catalog`. What is timed is all that a Job does before its first
Block is read: choose the Volumes, look up what is published, plan, predict. Goal: 60 s, and
1.25 GB, of which 0.57 GB are what is imported (torch, Ray).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import torch
from bench_catalog import Timer, make

GOAL_SECONDS, GOAL_BYTES = 60.0, 1_250_000_000


def main() -> None:
    """Make the Catalog in one process, plan in another, so that its memory is its own."""
    if sys.argv[1:2] == ["--plan"]:
        plan(Path(sys.argv[2]))
        return
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        make(f"{folder}/archive", number)
        command = [sys.executable, __file__, "--plan", folder]
        sys.exit(subprocess.run(command, check=False).returncode)


def plan(folder: Path) -> None:
    """Open the Job and begin it; print what each part took; fail where the goal is missed."""
    from unet_batch.inference.pool import ReplicaSize
    from unet_batch.models.bundle import BundleConfig, save_bundle
    from unet_batch.planning.specs.segment import SegmentSpec
    from unet_batch.planning.volume_info import LabelClass
    from unet_batch.workflows.prediction import Bookkeeper
    from unet_batch.workflows.segment_job import SegmentJob

    torch.manual_seed(0)
    config = BundleConfig(
        name="bench", network_name="residual_unet", network_arguments={}, channels=("CT",),
        roi=(96, 96, 96), classes=tuple(LabelClass(k, f"class_{k}") for k in range(3)),
        spacing_mm=(1, 1, 1),
    )  # fmt: skip
    save_bundle(folder / "bundle", config, config.build_network().state_dict())
    spec = SegmentSpec(archive=str(folder / "archive"), model=str(folder / "bundle"), labels="net")
    timer = Timer()
    job = SegmentJob.open(spec)
    timer.lap(f"choose {len(job.volumes)} Volumes")
    published = job.published()
    timer.lap("look up what is published")
    planned = job.plan_without(published, num_replicas=64)
    timer.lap(f"plan {planned.num_tiles} tiles")
    Bookkeeper.of(job, planned, ReplicaSize(64, 2, 0), published)
    timer.lap("predict")
    job.num_lanes(planned, 2)
    timer.lap("lanes that memory has room for")
    chains = planned.chains()
    next(chains)
    timer.lap("first Block")
    began = sum(1 for _ in islice(chains, 5000))
    timer.lap(f"{began} more Chains")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{'in all':<32} {timer.total:6.2f} s   (goal {GOAL_SECONDS:.0f} s)")
    print(f"{'peak memory':<32} {peak / 1e9:6.2f} GB  (goal {GOAL_BYTES / 1e9:.2f} GB)")
    sys.exit(int(timer.total > GOAL_SECONDS or peak > GOAL_BYTES))


if __name__ == "__main__":
    main()
