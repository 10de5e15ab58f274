"""What the Schedule and the Driver do beyond one machine: simulated Replicas, real decisions.

    python tests/benchmarks/bench_scale.py [--quick] [--out FOLDER]

Table 1: an archive of 100,000 Volumes of mixed sizes on 64 Replicas that take as long as a
tile does on two cores. Table 2: how far one Driver reaches: busy share by Replicas and by
seconds a tile, and for an archive of nothing but small crops; the same in partitions, a Driver
each. Goals: 64 Replicas 95 % busy, at most 2 ms of the Driver's time a Block, and the Driver
under 1 GB.

What Ray's calls cost the Driver is measured first, on a Ray of this machine, with empty tasks.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from simulated import Clock, RayCost, SimulatedPool, SimulatedWorkforce

from unet_batch.inference.driver import Driver
from unet_batch.inference.outcome import Outcome, Target
from unet_batch.inference.pool import ReplicaSize
from unet_batch.monitoring.metrics import JobMetrics
from unet_batch.planning.cost import ModelCost
from unet_batch.planning.partition import in_partition
from unet_batch.planning.plan import Plan, Planner
from unet_batch.planning.schedule import Schedule
from unet_batch.planning.specs.segment import InferenceSpec, PartitionSpec
from unet_batch.planning.volume_info import ChannelStatistics, LabelClass, VolumeInfo
from unet_batch.storage.labels_set import LabelsSet
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.layout import layout_for
from unet_batch.storage.ledger import Ledger, LedgerEntry
from unet_batch.storage.statistics import PERCENTAGES
from unet_batch.storage.stores import open_store
from unet_batch.storage.volume import Volume

GOAL_BUSY, GOAL_BLOCK_MS, GOAL_BYTES = 0.95, 2.0, 10**9
TILE_S = 0.035  # residual U-Net 16-256, 96³, bf16, two cores
CLASSES = (LabelClass(0, "background"), LabelClass(1, "organ"), LabelClass(2, "lesion"))
MIXED = {(48, 48, 48): 60, (64, 160, 160): 10, (120, 512, 512): 20, (280, 512, 512): 9}
LARGE, LARGE_SHARE = (700, 1024, 1024), 1
"""Shapes and how many of a hundred Volumes have them; the depth of each varies."""

REPLICAS = (8, 32, 64, 128, 256)


@dataclass(frozen=True)
class Result:
    """What one simulated Job took; `driver_ms` of Python and `ray_ms` of Ray's calls a Block."""

    archive: str
    volumes: int
    replicas: int
    drivers: int
    tile_ms: float
    blocks: int
    calls: int
    hours: float
    busy: float
    driver_ms: float
    ray_ms: float
    rss_bytes: int


def crops(number: int) -> list[VolumeInfo]:
    """An archive of small Volumes only, a tile each."""
    return [_info(k, (48, 48, 48), k % 9 - 4) for k in range(number)]


def infos(number: int) -> list[VolumeInfo]:
    """Rows as the Catalog gives them, of mixed sizes."""
    random = np.random.default_rng(0)
    shapes, shares = zip(*MIXED.items(), (LARGE, LARGE_SHARE), strict=True)
    kinds = random.choice(len(shapes), number, p=np.array(shares) / sum(shares))
    depths = random.integers(-6, 7, number)
    return [_info(k, shapes[int(kind)], int(depths[k])) for k, kind in enumerate(kinds)]


def _info(number: int, shape: tuple[int, int, int], more: int) -> VolumeInfo:
    shape = (shape[0] + more, *shape[1:])
    layout = layout_for(shape)
    percentiles = {p: 10.125 * p - number for p in PERCENTAGES}
    return VolumeInfo(
        id=f"{number:07d}-{number * 2654435761 % 2**32:08x}",
        shape_czyx=(1, *shape),
        dtype="int16",
        spacing_mm=(1.0 + number / 1e7, 0.8, 0.8),
        affine=tuple(float(k + number) for k in range(16)),
        chunk_zyx=layout.chunk_zyx,
        shard_zyx=layout.shard_zyx,
        content_hash=f"{number:064x}",
        channels=("CT",),
        statistics=(
            ChannelStatistics(-1024, 3071, -number, 498.25, percentiles, 0.4, 90.5, 160.2, 0),
        ),
        modality="CT",
        metadata={"format": "dicom", "KVP": 120.0, "SliceThickness": 1.5, "row": str(number)},
    )


def simulate(
    volumes: Sequence[VolumeInfo], *, replicas: int, tile_s: float, ray: RayCost
) -> Result:
    """A Job with its Driver, of all Volumes or of a partition of them."""
    planner = Planner(
        InferenceSpec(),
        (96, 96, 96),
        ModelCost(1, len(CLASSES), forward_bytes=2**28),
        ("CT",),
        memory_budget=2**31,
        min_sweeps=-(-replicas // len(volumes)),
    )
    plan = Plan(planner, volumes)
    clock = Clock()
    pool = SimulatedPool(ReplicaSize(replicas, 2, 0.0), clock)
    workforce = _Announcing(pool, clock, seconds_per_tile=tile_s, ray=ray)
    keys: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(open_store(folder), "scale") as ledger,
    ):
        driver = Driver(
            plan,
            Schedule(plan.chains(), plan.volumes, window=2, max_attempts=3),
            pool,  # type: ignore[arg-type]
            volumes=lambda volume_id: Volume("memory://scale", plan.volumes[volume_id].info),
            target=lambda volume_id: _target(plan.volumes[volume_id].info),
            head=None,  # type: ignore[arg-type]
            on_outcome=lambda outcome: _account(outcome, plan, ledger, keys),
            listen=JobMetrics(),
            workforce=workforce,
        )
        gc.collect()
        clock.leave()
        driver.run()
    if len(keys) != len(plan.volumes) or set(keys.values()) != {"done"}:
        raise AssertionError(f"{len(plan.volumes)} Volumes planned, {len(keys)} accounted for")
    if workforce.num_tiles != plan.num_tiles:
        raise AssertionError(f"{plan.num_tiles} tiles planned, {workforce.num_tiles} predicted")
    return Result(
        archive="mixed" if planner.layout(max(volumes, key=_size)).num_tiles > 1 else "crops",
        volumes=len(volumes),
        replicas=replicas,
        drivers=1,
        tile_ms=1e3 * tile_s,
        blocks=workforce.num_blocks,
        calls=workforce.num_calls,
        hours=clock.now / 3600,
        busy=pool.busy_s / (replicas * clock.now),
        driver_ms=1e3 * clock.driver_s / workforce.num_blocks,
        ray_ms=1e3 * clock.ray_s / workforce.num_blocks,
        rss_bytes=_peak_rss(),
    )


def _size(volume: VolumeInfo) -> int:
    return volume.num_voxels


class _Announcing(SimulatedWorkforce):
    """Tells the starts of Replicas too, which the pool makes."""

    def __init__(self, pool: SimulatedPool, *arguments: Any, **options: Any) -> None:
        super().__init__(pool, *arguments, **options)
        start = pool.start

        def announced() -> tuple[str, Any]:
            name, later = start()
            self.expect(later)
            return name, later

        pool.start = announced  # type: ignore[method-assign]


def _target(info: VolumeInfo) -> Target:
    writer = LabelsWriter.for_volume(
        "memory://scale", info, name="scale", classes=CLASSES, key=info.content_hash[:24]
    )
    return Target(LabelsSet("scale", (writer,)), {"model": "simulated"})


def _account(outcome: Outcome, plan: Plan, ledger: Ledger, seen: dict[str, str]) -> None:
    if outcome.volume_id in seen:
        raise AssertionError(f"{outcome.volume_id} was accounted for twice")
    seen[outcome.volume_id] = outcome.outcome
    volume = plan.volumes[outcome.volume_id]
    ledger.record(
        LedgerEntry(
            outcome.volume_id,
            outcome.outcome,
            key=volume.info.content_hash[:24],
            seconds=outcome.seconds,
            num_voxels=volume.info.num_voxels,
            num_tiles=volume.num_tiles,
            replica=",".join(outcome.replicas),
        )
    )


def _peak_rss() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def ray_cost() -> RayCost:
    """Measured in a process of its own, whose Ray runs tasks that do nothing."""
    command = [sys.executable, __file__, "--ray-cost"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return RayCost(**json.loads(done.stdout.splitlines()[-1]))


def measure_ray() -> RayCost:
    """CPU seconds of this process, all its threads, for what a Driver asks of Ray.

    A call counts with all that comes of it: its submission, its replies, their bookkeeping.
    """
    import ray

    from unet_batch.inference.cluster import ray_running

    with ray_running():

        @ray.remote(num_cpus=0.01)
        class Idle:
            def call(self, orders: Any) -> Any:
                return (None,) * 5 if orders else None

        idle = Idle.remote()
        orders = [np.zeros(100)] * 4  # about what a BlockOrder takes on its way
        ray.get([idle.call.remote(None) for _ in range(200)])
        refs: list[Any] = []

        def call_one() -> None:
            refs.extend(idle.call.remote(orders[:0]) for _ in range(500))
            ray.wait(refs[-500:], num_returns=500, fetch_local=False)

        def call_five() -> None:
            call = idle.call.options(num_returns=5)
            found = [ref for _ in range(500) for ref in call.remote(orders)]
            ray.wait(found, num_returns=len(found), fetch_local=False)

        def wait(number: int) -> None:
            for _ in range(300):
                ray.wait(refs[:number], num_returns=1, fetch_local=False)

        one, five = _seconds(call_one) / 500, _seconds(call_five) / 500
        few, many = _seconds(lambda: wait(10)) / 300, _seconds(lambda: wait(410)) / 300
        get = _seconds(lambda: [ray.get(ref) for ref in refs]) / len(refs)
        each = max(0.0, (many - few) / 400)
        more = max(0.0, (five - one) / 4)
        return RayCost(one - more, more, 2 * (few - 10 * each), 2 * each, get)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def table(results: Sequence[Result]) -> str:
    """Markdown."""
    lines = [
        "| archive | volumes | Replicas | drivers | ms a tile | Blocks | calls | hours | busy"
        " | driver ms a Block | of it Ray's calls | peak RSS MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one.archive} | {one.volumes:,} | {one.replicas} | {one.drivers}"
        f" | {one.tile_ms:g} | {one.blocks:,} | {one.calls:,} | {one.hours:.2f} | {one.busy:.1%}"
        f" | {one.driver_ms + one.ray_ms:.2f} | {one.ray_ms:.2f} | {one.rss_bytes / 1e6:.0f} |"
        for one in results
    ]
    return "\n".join(lines)


def draw(results: Sequence[Result], path: Path) -> None:
    """Busy share by Replicas, a line for each pace and number of drivers."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    kinds = dict.fromkeys((one.archive, one.tile_ms, one.drivers) for one in results)
    for kind in kinds:
        points = [one for one in results if (one.archive, one.tile_ms, one.drivers) == kind]
        archive, tile_ms, drivers = kind
        axes.plot(
            [one.replicas for one in points],
            [100 * one.busy for one in points],
            marker="o",
            linestyle="-" if drivers == 1 else "--",
            label=f"{archive}, {tile_ms:g} ms a tile" + f", {drivers} drivers" * (drivers > 1),
        )
    axes.axhline(100 * GOAL_BUSY, color="gray", linewidth=0.8)
    axes.set(xscale="log", xlabel="Replicas", ylabel="busy, %", ylim=(0, 102))
    ticks = sorted({one.replicas for one in results})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.legend(loc="lower left")
    axes.set_title("Simulated Replicas kept busy by the real Schedule and Driver")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def partitioned(
    volumes: list[VolumeInfo], *, replicas: int, drivers: int, tile_s: float, ray: RayCost
) -> Result:
    """All partitions of a Job, one after the other; together they do each Volume once."""
    shares = [in_partition(volumes, PartitionSpec(index=k, of=drivers)) for k in range(drivers)]
    if sorted(one.id for share in shares for one in share) != sorted(one.id for one in volumes):
        raise AssertionError("partitions do not share the Volumes out")
    parts = [
        simulate(share, replicas=replicas // drivers, tile_s=tile_s, ray=ray) for share in shares
    ]
    hours = max(part.hours for part in parts)
    work = sum(part.busy * part.hours * part.replicas for part in parts)
    blocks = sum(part.blocks for part in parts)
    return Result(
        archive=parts[0].archive,
        volumes=len(volumes),
        replicas=replicas,
        drivers=drivers,
        tile_ms=1e3 * tile_s,
        blocks=blocks,
        calls=sum(part.calls for part in parts),
        hours=hours,
        busy=work / (hours * replicas),
        driver_ms=sum(part.driver_ms * part.blocks for part in parts) / blocks,
        ray_ms=sum(part.ray_ms * part.blocks for part in parts) / blocks,
        rss_bytes=max(part.rss_bytes for part in parts),
    )


def reach(number: int, ray: RayCost) -> Iterator[Result]:
    """How far one Driver reaches, and several."""
    few, small = infos(number // 10), crops(number)
    for tile_s in (TILE_S, 0.01, 0.003):
        for replicas in REPLICAS:
            yield simulate(few, replicas=replicas, tile_s=tile_s, ray=ray)
    for drivers in (1, 4):
        for replicas in REPLICAS[2:]:
            yield partitioned(small, replicas=replicas, drivers=drivers, tile_s=TILE_S, ray=ray)


def main() -> int:
    """Print the tables, draw the plot; 1 where a goal is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the Volumes")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--ray-cost", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ray_cost:
        print(json.dumps(asdict(measure_ray())))
        return 0
    ray = ray_cost()
    print(
        f"Ray's calls: submit {1e3 * ray.submit_s:.2f} ms and {1e3 * ray.return_s:.3f} a return,"
        f" wait {1e3 * ray.wait_s:.2f} and {1e6 * ray.each_s:.1f} us a reference,"
        f" get {1e3 * ray.get_s:.2f}"
    )
    number = 10_000 if options.quick else 100_000
    main_result = simulate(infos(number), replicas=64, tile_s=TILE_S, ray=ray)
    print(table([main_result]), flush=True)
    sweep = []
    for one in reach(number, ray):
        sweep.append(one)
        print(table([one]).splitlines()[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(sweep, options.out / "scale.svg")
    content = {"main": asdict(main_result), "sweep": [asdict(one) for one in sweep]}
    (options.out / "scale.json").write_text(json.dumps(content, indent=2))
    print(f"plot: {options.out / 'scale.svg'}")
    missed = (
        main_result.busy < GOAL_BUSY
        or main_result.driver_ms + main_result.ray_ms > GOAL_BLOCK_MS
        or main_result.rss_bytes > GOAL_BYTES
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
