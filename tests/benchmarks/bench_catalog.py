"""One million Volumes: how long the Catalog takes to list, filter and plan them, and its memory.

    python tests/benchmarks/bench_catalog.py [number of Volumes]

The rows are as ingest writes them (statistics, affine, metadata, content hash), of shapes and
spacings as a hospital's archive has them. Goal: under 10 s and 1 GB for all three together.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

GOAL_SECONDS, GOAL_BYTES = 10.0, 10**9
WHERE = "modality = 'CT' and spacing_z <= 3 and has_labels('liver')"


def main() -> None:
    """Make the Catalog in one process, ask it in another, so that its memory is its own."""
    if sys.argv[1:2] == ["--ask"]:
        ask(sys.argv[2])
        return
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        make(folder, number)
        command = [sys.executable, __file__, "--ask", folder]
        sys.exit(subprocess.run(command, check=False).returncode)


def make(folder: str, number: int) -> None:
    """A Catalog of `number` rows, as compacted ingests leave it."""
    from unet_batch.storage.archive import open_archive

    archive = open_archive(folder, create=True)
    rows = infos(number)
    while batch := list(islice(rows, 50_000)):
        archive.catalog.append(batch)
    archive.catalog.compact()


def infos(number: int) -> Iterator[object]:
    """Rows of CT, MR and PET of thousands of shapes."""
    from unet_batch.planning.volume_info import ChannelStatistics, VolumeInfo
    from unet_batch.storage.layout import layout_for
    from unet_batch.storage.statistics import PERCENTAGES

    random = np.random.default_rng(0)
    percentiles = {p: 10.125 * p - 1000 for p in PERCENTAGES}
    statistics = ChannelStatistics(-1024, 3071, -401.5, 498.25, percentiles, 0.4, 90.5, 160.2, 0)
    metadata = {"format": "dicom", "KVP": 120.0, "SliceThickness": 1.5, "PatientPosition": "HFS"}
    for k in range(number):
        modality, edge = (("CT", 512), ("MR", 320), ("PT", 168))[int(random.integers(3))]
        shape = (int(random.integers(20, 900)), edge, edge)
        z, y, x = (float(random.integers(4, 24)) / 4, 0.75, 0.75)
        layout = layout_for(shape)
        yield VolumeInfo(
            id=f"site{k % 40:02d}_patient{k:07d}_series",
            shape_czyx=(1, *shape),
            dtype="int16",
            spacing_mm=(z, y, x),
            affine=tuple(float(n) for n in np.diag([z, y, x, 1.0]).ravel()),
            chunk_zyx=layout.chunk_zyx,
            shard_zyx=layout.shard_zyx,
            content_hash=f"{random.bytes(20).hex()}",
            channels=(modality,),
            statistics=(statistics,),
            modality=modality,
            labels=("liver",) if k % 3 else (),
            metadata=metadata,
        )


def ask(folder: str) -> None:
    """List, filter and plan; print what each took; fail where the goal is missed."""
    from unet_batch.planning.cost import ModelCost
    from unet_batch.planning.plan import Planner
    from unet_batch.planning.specs.segment import InferenceSpec
    from unet_batch.planning.survey import VolumeCost, survey
    from unet_batch.storage.archive import open_archive

    catalog = open_archive(folder).catalog
    size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    timer = Timer()
    number = sum(1 for _ in catalog.briefs())
    timer.lap(f"list {number} Volumes")
    chosen = catalog.ids(where=WHERE)
    timer.lap(f"filter: {len(chosen)} of them")
    model = ModelCost(1, 3, weight_bytes=20 * 2**20, forward_bytes=500 * 2**20)
    planner = Planner(InferenceSpec(), (96, 96, 96), model, ("image",), 2 * 2**30)
    costs = (cost for _, cost in survey(planner, catalog.briefs()))
    tiles = sum(cost.num_tiles for cost in costs if isinstance(cost, VolumeCost))
    timer.lap(f"plan: {tiles} tiles")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{'in all':<32} {timer.total:6.2f} s   (goal {GOAL_SECONDS:.0f} s)")
    print(f"{'of that on the CPU':<32} {timer.cpu:6.2f} s   (the rest: waiting)")
    print(f"{'peak memory':<32} {peak / 1e9:6.2f} GB  (goal {GOAL_BYTES / 1e9:.0f} GB)")
    print(f"{'Catalog on disk':<32} {size / 1e9:6.2f} GB")
    sys.exit(int(timer.total > GOAL_SECONDS or peak > GOAL_BYTES))


class Timer:
    """Prints how long each lap took."""

    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()
        self.started_cpu = time.process_time()

    @property
    def total(self) -> float:
        """Seconds of all laps."""
        return self.last - self.started

    @property
    def cpu(self) -> float:
        """Seconds of computing of this process so far."""
        return time.process_time() - self.started_cpu

    def lap(self, name: str) -> None:
        """End a lap called `name`."""
        now = time.perf_counter()
        print(f"{name:<32} {now - self.last:6.2f} s", flush=True)
        self.last = now


if __name__ == "__main__":
    main()
