"""Ingest against plain zarr-python: decoded voxels a second, from file to published Volume.

    python tests/benchmarks/bench_ingest_throughput.py [number of scans, rounds]

The scans are CT-like: int16, 120 x 512 x 512, smooth tissue and noise, as uncompressed DICOM
series and as .nii. Ingest runs as it always does, as Dask work on a Ray of two CPUs (its start
is not counted), and ends with published, catalogued Volumes. Plain zarr-python writes the same
arrays from memory with the same Chunks, Shards and codec; a second row shows it with the codec
it chooses itself. Goals: 60 MB/s, and 1.5 times the first.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import zarr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from zarr.codecs import BloscCodec

from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.nifti import write_nifti
from unet_batch.formats.scan import Scan
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.storage.layout import layout_for
from unet_batch.workflows.ingest import ingest

SHAPE = (120, 512, 512)
GOAL_MB_PER_S, GOAL_RATIO = 60.0, 1.5
NUM_CPUS = 2
PLAIN = "plain zarr-python"
OURS = [BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")]  # the codec of Volumes


def main() -> None:
    """Make the scans, measure each way in turn, print medians, fail where a goal is missed."""
    number, rounds = map(int, [*sys.argv[1:3], "6", "3"][:2] if sys.argv[2:] else ["6", "3"])
    with tempfile.TemporaryDirectory(prefix="ub", dir="/tmp") as folder:
        root = Path(folder)
        arrays = make_scans(root, number)
        ray.init(
            address="local",
            num_cpus=NUM_CPUS,
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(root / "ray"),
        )
        ways: dict[str, Callable[[Path], None]] = {
            PLAIN: lambda out: write_plainly(arrays, out, compressors=OURS),
            "zarr-python's codec": lambda out: write_plainly(arrays, out),
            "ingest NIfTI": lambda out: ingest_from(root / "nifti", out),
            "ingest DICOM": lambda out: ingest_from(root / "dicom", out),
        }
        for way in ways.values():  # the first run imports, and fills the page cache
            seconds_of(way, root / "out")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(seconds_of(way, root / "out"))
        ray.shutdown()
    sys.exit(int(not print_table(seconds, number)))


def print_table(seconds: dict[str, list[float]], number: int) -> bool:
    """Medians, megabytes a second and the ratio to plain; whether the goals are met."""
    megabytes = number * np.prod(SHAPE) * 2 / 1e6
    plain = statistics.median(seconds[PLAIN])
    print(f"{number} scans of {SHAPE} int16, {megabytes:.0f} MB, {NUM_CPUS} CPUs")
    print(f"{'':<20}{'median s':>10}{'min s':>10}{'max s':>10}{'MB/s':>10}{'x plain':>10}")
    is_met = True
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio, pace = median / plain, megabytes / median
        spread = f"{min(times):>10.2f}{max(times):>10.2f}"
        print(f"{name:<20}{median:>10.2f}{spread}{pace:>10.0f}{ratio:>10.2f}")
        if name.startswith("ingest"):
            is_met &= ratio <= GOAL_RATIO and pace >= GOAL_MB_PER_S
    print(f"goals: {GOAL_MB_PER_S:.0f} MB/s, {GOAL_RATIO} x plain: {'met' if is_met else 'MISSED'}")
    return is_met


def make_scans(root: Path, number: int) -> list[NDArray[np.int16]]:
    """CT-like scans, each as .nii and as a DICOM series below `root`."""
    random = np.random.default_rng(0)
    tissue = 20_000 * gaussian_filter(random.standard_normal(SHAPE, dtype=np.float32), 6)
    affine = np.diag([1.5, 0.7, 0.7, 1.0])
    arrays = []
    (root / "nifti").mkdir()
    for k in range(number):
        noisy = np.roll(tissue, 17 * k, axis=1) + random.normal(0, 15, SHAPE)
        voxels = np.clip(noisy, -1024, 3000).astype(np.int16)
        write_nifti(root / f"nifti/ct{k}.nii", voxels, affine)
        scan = Scan(f"ct{k}", voxels[None], affine, ("CT",), "CT")
        write_dicom_series(root / f"dicom/ct{k}", scan)
        arrays.append(voxels)
    return arrays


def seconds_of(way: Callable[[Path], None], out: Path) -> float:
    """How long `way` takes to fill the empty folder `out`."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    way(out)
    return time.perf_counter() - started


def ingest_from(source: Path, out: Path) -> None:
    """All scans of a folder into a new Archive."""
    summary = ingest(IngestSpec(archive=str(out), sources=(str(source),)))
    if summary.quarantined:
        raise RuntimeError(str(summary.quarantined))


def write_plainly(arrays: list[NDArray[np.int16]], out: Path, **choice: Any) -> None:
    """The same arrays by zarr-python alone, one after the other, as its defaults do it.

    `choice` is of compressors; without one zarr-python takes zstd without a shuffle.
    """
    layout = layout_for(SHAPE)
    for k, voxels in enumerate(arrays):
        array = zarr.create_array(
            store=str(out / f"ct{k}.zarr"),
            shape=(1, *SHAPE),
            dtype="int16",
            chunks=(1, *layout.chunk_zyx),
            shards=(1, *layout.shard_zyx),
            **choice,
        )
        array[:] = voxels[None]


if __name__ == "__main__":
    main()
