"""Bench: our Job against the bare forward pass and against MONAI's loop, in one run.

Measurements of a case are interleaved (bare, Job, bare, Job, ...) and medians reported: the
machines this runs on are shared, and only ratios within one run mean something. The Job is
measured from reading Zarr to published Labels with Replicas that are warm, as all but the
first Volume of an archive find them; how long they take to start is reported apart.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from unet_batch.errors import SpecError
from unet_batch.formats.scan import Scan
from unet_batch.inference.choosing import choose_engine, load_engine
from unet_batch.inference.engine import Engine, Frame
from unet_batch.inference.pool import ReplicaPool, ReplicaSize
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.models.process import own_device, tune_process
from unet_batch.monitoring.events import Event, Listener, StageTimed, ignore
from unet_batch.planning.specs.bench import BenchCase, BenchSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.reporting.bars import Bar, stacked_bars
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.engine_choice import measure_engines
from unet_batch.workflows.monai_loop import monai_seconds
from unet_batch.workflows.segment import run_plan
from unet_batch.workflows.segment_job import SegmentJob


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Medians of one case, in seconds; `seconds_by_part` is the worker time of one Job.

    `bare_s` is the forward pass of the planned tiles on the Engine `engine`, the fastest one, in
    batches that all cores share, as a loop around a network would run it;
    `overhead_s_per_volume` what the Job takes beyond it for each Volume.
    """

    name: str
    num_classes: int
    engine: str
    bare_s: float
    end_to_end_s: float
    monai_fp32_s: float | None
    monai_autocast_s: float | None
    tiles_planned: int
    tiles_predicted: int
    peak_rss_bytes: int
    peak_device_bytes: int
    start_s: float
    num_volumes: int
    voxels: int
    seconds_by_part: dict[str, float]

    @property
    def share_of_bare(self) -> float:
        """Bare forward over end to end: 1 where nothing but the network takes time."""
        return self.bare_s / self.end_to_end_s

    @property
    def voxels_per_second(self) -> float:
        """Of the Volumes, from Zarr to published Labels."""
        return self.voxels / self.end_to_end_s

    @property
    def overhead_s_per_volume(self) -> float:
        """Seconds a Volume beyond the bare forward pass."""
        return (self.end_to_end_s - self.bare_s) / self.num_volumes


@dataclass(frozen=True, slots=True)
class BenchSummary:
    """The cases, and where the plot was written."""

    cases: tuple[CaseResult, ...]
    plot: str | None


def bench(spec: BenchSpec, *, listen: Listener = ignore) -> BenchSummary:
    """Measure every case of the Spec. Ray must be running."""
    names = [case.name for case in spec.cases]
    unknown = sorted(set(spec.only) - set(names))
    if unknown:
        raise SpecError(f"no case {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = [case for case in spec.cases if not spec.only or case.name in spec.only]
    results = tuple(_measure(spec, case, listen) for case in chosen)
    return BenchSummary(results, _write(spec, results))


def _measure(spec: BenchSpec, case: BenchCase, listen: Listener) -> CaseResult:
    with tempfile.TemporaryDirectory(prefix="unet-batch-bench-") as folder:
        job = _make_job(spec, case, Path(folder))
        size = ReplicaSize.resolve(job.spec.resources)
        tune_process(size.num_cpus)
        bare = _Bare(job, spec.batch_size)
        plan = job.plan(job.infos, num_replicas=size.count)
        with ReplicaPool(
            job.model_paths,
            job.spec.inference,
            size=size,
            roi_zyx=case.roi,
            num_lanes=plan.lanes_within_memory(size.num_cpus),
        ) as pool:
            started = perf_counter()
            pool.use_engine(measure_engines(pool).kind)  # which may be another in lanes
            runs = [_Run(job, 0, pool, listen)]  # the first starts the Replicas: not counted
            start_s = perf_counter() - started
            bare_s = []
            for number in range(1, spec.repeats + 1):
                bare_s.append(bare.seconds(runs[0].tiles_planned))
                runs.append(_Run(job, number, pool, listen))
        fp32, autocast = None, None
        if case.with_monai:
            fp32, autocast = monai_seconds(
                job.spec, num_threads=size.num_cpus, repeats=spec.monai_repeats
            )
        return CaseResult(
            name=case.name,
            num_classes=case.num_classes,
            engine=bare.engine.name,
            bare_s=median(bare_s),
            end_to_end_s=median(run.seconds for run in runs[1:]),
            monai_fp32_s=fp32,
            monai_autocast_s=autocast,
            tiles_planned=runs[-1].tiles_planned,
            tiles_predicted=runs[-1].tiles_predicted,
            peak_rss_bytes=runs[-1].peak_rss_bytes,
            peak_device_bytes=runs[-1].peak_device_bytes,
            start_s=start_s - runs[-1].seconds,
            num_volumes=case.num_volumes,
            voxels=case.num_volumes * int(np.prod(case.shape_zyx)),
            seconds_by_part=dict(runs[-1].parts),
        )


def _make_job(spec: BenchSpec, case: BenchCase, folder: Path) -> SegmentJob:
    archive = open_archive(folder / "archive", create=True)
    random = np.random.default_rng(0)
    for number in range(case.num_volumes):
        voxels = random.integers(-1000, 1000, (1, *case.shape_zyx)).astype(np.int16)
        archive.write_scan(Scan(f"v{number:05d}", voxels, np.eye(4), ("CT",), "CT"), source={})
    archive.catalog.compact()  # as an ingest does
    torch.manual_seed(0)
    config = BundleConfig(
        name="bench",
        network_name=case.network,
        network_arguments=case.arguments,
        channels=("CT",),
        roi=case.roi,
        classes=tuple(LabelClass(k, f"class_{k}") for k in range(case.num_classes)),
        spacing_mm=(1, 1, 1),
    )
    save_bundle(folder / "bench", config, config.build_network().state_dict())
    return SegmentJob.open(
        SegmentSpec.model_validate(
            {
                "archive": archive.url,
                "model": str(folder / "bench"),
                "labels": "bench",
                "inference": {"overlap": spec.overlap, "batch_size": spec.batch_size},
                "resources": {"memory_budget": spec.memory_budget},
            }
        )
    )


class _Bare:
    """The forward pass and nothing else, on the fastest Engine."""

    def __init__(self, job: SegmentJob, batch_size: int) -> None:
        frame, precision = Frame.of(job.bundle, job.roi_zyx), job.spec.inference.precision
        device = own_device()
        choice = choose_engine(
            job.bundles, frame, precision=precision, device=device, batch_size=batch_size
        )
        self.engine: Engine = load_engine(
            choice.kind, job.bundles, frame, precision=precision, device=device
        )
        self._tiles = self.engine.tiles(batch_size).normal_()

    def seconds(self, num_tiles: int) -> float:
        started = perf_counter()
        with torch.inference_mode():
            for _ in range(num_tiles // len(self._tiles)):
                self.engine.forward(self._tiles)
            rest = num_tiles % len(self._tiles)
            if rest:
                self.engine.forward(self._tiles[: max(rest, self.engine.min_batch)])
            if self.engine.device.type == "cuda":
                torch.cuda.synchronize(self.engine.device)
        return perf_counter() - started


@dataclass
class _Run:
    """One Job over all Volumes, as a Listener of its own."""

    job: SegmentJob
    number: int
    pool: ReplicaPool
    also: Listener
    parts: Counter[str] = field(default_factory=Counter)
    tiles_predicted: int = 0
    peak_rss_bytes: int = 0
    peak_device_bytes: int = 0

    def __post_init__(self) -> None:
        labels = f"{self.job.spec.labels}-{self.number}"
        spec = self.job.spec.model_copy(update={"labels": labels})
        self.job = replace(self.job, spec=spec)
        started = perf_counter()
        plan = self.job.plan(self.job.infos, num_replicas=self.pool.size.count)
        self.tiles_planned = plan.num_tiles
        run_plan(self.job, plan, self.pool, on_outcome=lambda _: None, listen=self)
        self.seconds = perf_counter() - started

    def __call__(self, event: Event) -> None:
        self.also(event)
        if not isinstance(event, StageTimed):
            return
        self.tiles_predicted += event.num_tiles
        self.peak_rss_bytes = max(self.peak_rss_bytes, event.peak_rss_bytes)
        self.peak_device_bytes = max(self.peak_device_bytes, event.peak_device_bytes)
        if event.stage != "predict":
            self.parts[event.stage] += event.seconds  # type: ignore[assignment]
            return
        for part, seconds in event.parts.items():
            self.parts[part] += seconds  # type: ignore[assignment]
        self.parts["other"] += event.seconds - sum(event.parts.values())  # type: ignore[assignment]


def _write(spec: BenchSpec, results: Iterable[CaseResult]) -> str | None:
    if spec.out is None:
        return None
    folder, results = Path(spec.out), list(results)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"cases": [asdict(result) for result in results]}
    (folder / "bench.json").write_text(json.dumps(content, indent=2))
    bars = [Bar(result.name, result.seconds_by_part, result.bare_s) for result in results]
    plot = stacked_bars("Where the time goes, seconds of all workers", bars)
    (folder / "bench.svg").write_text(plot)
    return str(folder / "bench.svg")
