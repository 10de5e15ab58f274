"""What each preset costs: a Job with it over the plain Job just before it; medians.

    python tests/benchmarks/bench_presets.py

One volume of 224³ (half of its tiles air), tiles of 96³, overlap 0.5, residual U-Net 16-256, 4
classes; from Zarr to published Labels, with Replicas that are warm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import ray
import torch

from unet_batch.formats.scan import Scan
from unet_batch.inference.pool import ReplicaPool, ReplicaSize
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.monitoring.events import ignore
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.segment import run_plan
from unet_batch.workflows.segment_job import SegmentJob

EDGE, AIR_FROM, NUM_CLASSES, REPEATS = 224, 90, 4, 3
PRESETS: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "plain": (("a",), {}),
    "mirror: [x]": (("a",), {"mirror": ["x"]}),
    "mirror: [y, x]": (("a",), {"mirror": ["y", "x"]}),
    "model: [a, b]": (("a", "b"), {}),
    "sigmoid": (("s",), {}),
    "probabilities: true": (("a",), {"probabilities": True}),
    "skip_below: -950": (("a",), {"skip_below": -950}),
}


def make_bundle(folder: Path, seed: int) -> None:
    is_sigmoid = folder.name == "s"
    torch.manual_seed(seed)
    config = BundleConfig(
        name=folder.name,
        network_name="residual_unet",
        channels=("CT",),
        roi=(96, 96, 96),
        classes=tuple(LabelClass(k + is_sigmoid, f"class_{k}") for k in range(NUM_CLASSES)),
        activation="sigmoid" if is_sigmoid else "softmax",
        spacing_mm=(1, 1, 1),
    )
    save_bundle(folder, config, config.build_network().state_dict())


def make_archive(folder: Path) -> Archive:
    archive = open_archive(folder, create=True)
    voxels = np.random.default_rng(0).integers(-900, 1000, (1, EDGE, EDGE, EDGE)).astype(np.int16)
    voxels[:, AIR_FROM:] = -1000
    archive.write_scan(Scan("v", voxels, np.eye(4), ("CT",), "CT"), source={})
    return archive


def runner(name: str, folder: Path, archive: Archive, stack: ExitStack) -> Callable[[int], float]:
    """A function that runs the preset's Job once, on a Replica of its own, and times it."""
    models, inference = PRESETS[name]
    spec = {
        "archive": archive.url,
        "model": [str(folder / model) for model in models],
        "labels": f"p{list(PRESETS).index(name)}",
        "inference": {"engine": "torch", **inference},
        "resources": {"memory_budget": "4GiB"},
    }
    job = SegmentJob.open(SegmentSpec.model_validate(spec))
    size = replace(ReplicaSize.resolve(job.spec.resources), num_cpus=torch.get_num_threads())
    paths = job.model_paths
    pool = ReplicaPool(paths, job.spec.inference, size=size, roi_zyx=job.roi_zyx)
    stack.enter_context(pool)
    ray.get([ref for _, ref in pool.start_all()])

    def run(number: int) -> float:
        labels = f"{spec['labels']}-{number}"
        again = replace(job, spec=job.spec.model_copy(update={"labels": labels}))
        plan = again.plan(again.infos, num_replicas=1)
        started = perf_counter()
        run_plan(again, plan, pool, on_outcome=lambda _: None, listen=ignore)
        seconds = perf_counter() - started
        assert again.is_published(again.infos[0])
        return seconds

    return run


def measure(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the plain Job and of the preset's after it, for each preset and round."""
    for seed, name in enumerate("abs"):
        make_bundle(folder / name, seed)
    archive = make_archive(folder / "archive")
    with ExitStack() as stack:
        runs = {name: runner(name, folder, archive, stack) for name in PRESETS}
        plain = runs.pop("plain")
        plain(-1)  # starts the workers that read and write
        return {
            name: [(plain(count), run(count)) for count in range(first, first + REPEATS)]
            for first, (name, run) in zip(range(0, 1000, REPEATS), runs.items(), strict=False)
        }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="presets-") as place:
        # More CPUs than there are: the Replicas of the presets that wait hold theirs too.
        ray.init(address="local", num_cpus=64, include_dashboard=False, log_to_driver=False)
        measured = measure(Path(place))
    print("| preset | seconds | plain Jobs | each |\n|---|---|---|---|")
    for name, pairs in measured.items():
        ratios = [preset / plain for plain, preset in pairs]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        seconds = median(preset for _, preset in pairs)
        print(f"| {name} | {seconds:.2f} | {median(ratios):.2f} | {each} |")
