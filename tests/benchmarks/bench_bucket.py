"""Small Volumes in a bucket that answers after 20 ms: what a Job makes of a store far away.

    python tests/benchmarks/bench_bucket.py [volumes]

Prints how long a first run takes, one that finds all done, and what the tasks took by stage.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
from slow_bucket import slow_bucket

from unet_batch.formats.scan import Scan
from unet_batch.inference.cluster import ray_running
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.monitoring.events import Event, StageTimed
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.evaluate import evaluate
from unet_batch.workflows.segment import segment

LATENCY_S, SHAPE = 0.02, (40, 40, 40)


def make_archive(url: str, num_volumes: int) -> None:
    archive = open_archive(url, create=True)
    random = np.random.default_rng(0)

    def write(number: int) -> None:
        voxels = random.integers(-1000, 1000, (1, *SHAPE)).astype(np.int16)
        archive.write_scan(Scan(f"v{number:05d}", voxels, np.eye(4), ("CT",), "CT"), source={})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(num_volumes)))
    archive.catalog.compact()


def make_bundle(folder: Path) -> str:
    config = BundleConfig(
        name="bench",
        network_name="residual_unet",
        network_arguments={"channels": [8, 16, 32]},
        channels=("CT",),
        roi=SHAPE,
        classes=(LabelClass(0, "background"), LabelClass(1, "organ")),
        spacing_mm=(1, 1, 1),
    )
    save_bundle(folder, config, config.build_network().state_dict())
    return str(folder)


def main() -> None:
    num_volumes = int(sys.argv[1]) if sys.argv[1:] else 300
    with slow_bucket(LATENCY_S) as bucket, tempfile.TemporaryDirectory() as folder:
        make_archive(f"{bucket}/archive", num_volumes)
        spec = SegmentSpec.model_validate(
            {
                "archive": f"{bucket}/archive",
                "model": make_bundle(Path(folder) / "bundle"),
                "labels": "bench",
                "inference": {"engine": "torch"},
            }
        )
        with ray_running():
            for run in ("first run", "all done"):
                stages: Counter[str] = Counter()

                def note(event: Event, stages: Counter[str] = stages) -> None:
                    if isinstance(event, StageTimed):
                        stages[event.stage] += round(1000 * event.seconds)

                started = perf_counter()
                summary = segment(spec, listen=note)
                seconds = perf_counter() - started
                print(
                    f"{run}: {num_volumes} volumes, {seconds:.1f} s, {num_volumes / seconds:.1f}/s,"
                    f" done {summary.done}, tasks' ms {dict(stages)}"
                )
            started = perf_counter()
            evaluate(
                EvaluateSpec.model_validate(
                    {
                        "archive": spec.archive,
                        "labels": "bench",
                        "truth": "bench",
                        "metrics": ["dice"],
                    }
                )
            )
            seconds = perf_counter() - started
            print(f"evaluate: {seconds:.1f} s, {num_volumes / seconds:.1f}/s")


if __name__ == "__main__":
    main()
