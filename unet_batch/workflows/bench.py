"""Bench: our Job against the bare forward pass and against MONAI's loop, in one run.

Measurements of a case are interleaved in rounds (bare, Job, MONAI, bare, Job, ...) and medians
reported: the machines this runs on are shared, and only ratios within one run mean something. A
short case has more rounds than a long one, as a machine's mood lasts for half a minute. The Job
is measured from reading Zarr to published Labels with Replicas that are warm, as all but the
first Volume of an archive find them; how long they take to start is reported apart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import ray
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
from unet_batch.workflows.bench_folder import bench_folder
from unet_batch.workflows.engine_choice import measure_engines
from unet_batch.workflows.monai_loop import MonaiLoop
from unet_batch.workflows.segment import run_plan
from unet_batch.workflows.segment_job import SegmentJob


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Medians of one case's rounds, in seconds; `seconds_by_part` is the worker time of one Job.

    `bare_s` is the forward pass of the planned tiles on the Engine `engine`, the fastest one, in
    batches that all cores share, as a loop around a network would run it. The Job runs batches
    side by side where there is memory, which may take less time; `job_engine` is what measured
    faster so. `start_s` is how long the Replicas took to start.
    """

    name: str
    num_classes: int
    engine: str
    job_engine: str
    rounds: int
    bare_s: float
    end_to_end_s: float
    monai_fp32_s: float | None
    monai_autocast_s: float | None
    tiles_planned: int
    tiles_predicted: int
    peak_rss_bytes: int
    peak_device_bytes: int
    start_s: float
    num_cpus: int
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
        """Seconds of a core that a Volume takes beyond the bare forward pass."""
        return self.num_cpus * (self.end_to_end_s - self.bare_s) / self.num_volumes


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
    with bench_folder() as folder:
        job = _make_job(spec, case, folder)
        size = ReplicaSize.resolve(job.spec.resources)
        tune_process(size.num_cpus)
        bare = _Bare(job, spec.batch_size)
        plan = job.plan(job.infos, num_replicas=size.count)
        with (
            ReplicaPool(
                job.model_paths,
                job.spec.inference,
                size=size,
                roi_zyx=case.roi,
                num_lanes=job.num_lanes(plan, size.num_cpus),
            ) as pool,
            closing(MonaiLoop(job.spec, num_threads=size.num_cpus)) as monai,
        ):
            started = perf_counter()
            ray.get([warm for _, warm in pool.start_all(size.count)])
            rounds = Rounds(start_s=perf_counter() - started)
            choice = measure_engines(pool)  # which may be another in lanes
            pool.use_engine(choice.kind)
            first = _Run(job, 0, pool, listen)  # its workers begin: not counted
            while not rounds.are_enough(spec):
                rounds.bare_s.append(bare.seconds(first.tiles_planned))
                rounds.runs.append(_Run(job, 1 + len(rounds.runs), pool, listen))
                if case.with_monai and len(rounds.fp32_s) < spec.monai_repeats:
                    rounds.fp32_s.append(monai.fp32_seconds())
                    rounds.autocast_s.append(monai.autocast_seconds())
        num_cpus = size.count * size.num_cpus
        return _result(case, (bare.engine.name, choice.kind), rounds, num_cpus)


def _result(case: BenchCase, engines: tuple[str, str], rounds: Rounds, num_cpus: int) -> CaseResult:
    last, (bare_engine, job_engine) = rounds.runs[-1], engines
    return CaseResult(
        name=case.name,
        num_classes=case.num_classes,
        engine=bare_engine,
        job_engine=job_engine,
        rounds=len(rounds.runs),
        bare_s=median(rounds.bare_s),
        end_to_end_s=median(run.seconds for run in rounds.runs),
        monai_fp32_s=_median(rounds.fp32_s),
        monai_autocast_s=_median(rounds.autocast_s),
        tiles_planned=last.tiles_planned,
        tiles_predicted=last.tiles_predicted,
        peak_rss_bytes=last.peak_rss_bytes,
        peak_device_bytes=last.peak_device_bytes,
        start_s=rounds.start_s,
        num_cpus=num_cpus,
        num_volumes=case.num_volumes,
        voxels=case.num_volumes * int(np.prod(case.shape_zyx)),
        seconds_by_part=dict(last.parts),
    )


def _median(seconds: Iterable[float | None]) -> float | None:
    """The median of what was measured, None where nothing was."""
    measured = [one for one in seconds if one is not None]
    return median(measured) if measured else None


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


@dataclass
class Rounds:
    """What was measured so far, in seconds: the bare pass, the Job, MONAI's two loops."""

    start_s: float = 0.0
    bare_s: list[float] = field(default_factory=list)
    runs: list[_Run] = field(default_factory=list)
    fp32_s: list[float] = field(default_factory=list)
    autocast_s: list[float | None] = field(default_factory=list)

    def are_enough(self, spec: BenchSpec) -> bool:
        """Whether there were as many rounds as the Spec asks for, and for as long."""
        least = max(spec.repeats, spec.monai_repeats)
        measured_s = sum(self.bare_s) + sum(run.seconds for run in self.runs)
        return len(self.runs) >= least and measured_s >= spec.min_seconds


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
