"""Memory of a Replica: what a Predictor takes at its peak, against what the Plan predicted.

    python tests/benchmarks/bench_memory.py [--quick | --long]

First the network is a table of logits, so that only the engine's own memory counts, and the volume
is made where it is read: 1024³ voxels never lie in memory. Each case is a process of its own.
Goals: at a budget that a 256³ volume fills, the process grows by at most 10 % to 1024³; and no
case takes more than was predicted, from 2 to 61 classes. The prediction is a bound: it counts an
index for every voxel of a layer, which torch needs to read labels out and the CPU's kernels do
not.

Then whole Jobs, through Ray and its object store, with a residual U-Net: from 256³ to 512³, with
`--long` (a quarter of an hour more) to 1024³, a Replica's process grows by at most 10 %.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unet_batch.formats.scan import Scan
from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.cluster import ray_running
from unet_batch.inference.engine import Frame
from unet_batch.inference.head import Head
from unet_batch.inference.predictor import Predictor
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.models.process import process_variables, tune_process
from unet_batch.planning.cost import ModelCost, choose_layout, footprint
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import ChannelStatistics, LabelClass
from unet_batch.storage.archive import open_archive
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid
from unet_batch.workflows.segment import segment

ROI, OVERLAP, BATCH = (96, 96, 96), 0.5, 2
NUM_LANES = 2  # of a Replica with two cores
STATISTICS = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)
MIB = 2**20
GOAL = 0.10

JOB_BUDGET = 450 * MIB
"""Which a volume of 256³ voxels fills."""

NETWORK = BundleConfig(
    name="noise",
    network_name="residual_unet",
    network_arguments={"channels": [16, 32, 64, 128, 256]},
    channels=("CT",),
    roi=ROI,
    classes=(LabelClass(0, "background"), LabelClass(1, "organ")),
    spacing_mm=(1, 1, 1),
)


class TableEngine:
    """Logits that are the same for every tile, made once: a forward pass that takes nothing."""

    min_batch = 1

    def __init__(self, num_classes: int, roi: tuple[int, int, int]) -> None:
        self.name, self.device = "table", torch.device("cpu")
        self.frame = Frame(1, num_classes, roi)
        self._tiles = torch.zeros((BATCH, 1, *roi))
        self._logits = torch.randn((BATCH, num_classes, *roi))

    def tiles(self, count: int) -> torch.Tensor:
        return self._tiles[:count]

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        return self._logits[: len(tiles_nczyx)]

    def close(self) -> None:
        pass


def status(field: str) -> int:
    """Bytes of a field of this process' status, such as VmRSS or VmHWM (the peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def run_case(edge: int, num_classes: int, budget: int) -> dict[str, Any]:
    """Predict a volume of edge³ voxels; bytes before, at the peak, and as predicted."""
    tune_process(2)
    model = ModelCost(1, num_classes)
    grid = TileGrid.of((edge,) * 3, ROI, OVERLAP)
    layout = choose_layout(grid, model, itemsize=2, memory_budget=budget)
    predictor = make_predictor(num_classes, ROI)
    make_predictor(num_classes, (8, 8, 8)).warm_up()  # what is compiled is loaded before
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS")
    tiles = sum(predict_sweep(predictor, layout, sweep) for sweep in range(len(layout.sweeps)))
    return {
        "before": before,
        "peak": status("VmHWM"),
        "predicted": footprint(layout, model, 2).total,
        "parts": str(footprint(layout, model, 2)),
        "tiles": tiles,
        "blocks": layout.num_blocks,
        "sweeps": len(layout.sweeps),
    }


def make_predictor(num_classes: int, roi: tuple[int, int, int]) -> Predictor:
    return Predictor(
        TableEngine(num_classes, roi),
        intensity=IntensitySpec(mode="zscore"),
        head=Head(tuple(range(num_classes))),
        importance="gaussian",
        batch_size=BATCH,
        num_lanes=NUM_LANES,
    )


def predict_sweep(predictor: Predictor, layout: BlockLayout, sweep: int) -> int:
    tiles = 0
    for block in layout.blocks(sweep):
        box = layout.input_box(block)
        order = BlockOrder("v", layout, block, (STATISTICS,))
        whole = Box((0, *box.start), (1, *box.stop))
        (result,) = predictor.predict([order], iter([[(whole, voxels_of(whole))]]))
        if result.failure:
            raise SystemExit(result.failure)
        tiles += result.num_tiles
        del result  # a Replica hands it over to Ray
    return tiles


def voxels_of(box: Box) -> np.ndarray:
    """Voxels int16 of a box, from their places alone."""
    ramp = (np.arange(box.start[-1], box.stop[-1]) % 512).astype(np.int16)
    return np.broadcast_to(ramp, box.shape).copy()


def measure(edge: int, num_classes: int, budget: int) -> dict[str, Any]:
    """`run_case` in a process of its own, and its row of the table."""
    found = output_of("--case", edge, num_classes, budget)
    took = found["peak"] - found["before"]
    print(
        f"{edge:5}³ {num_classes:3} classes  budget {budget / MIB:6.0f} MiB"
        f"  predicted {found['predicted'] / MIB:6.0f}  took {took / MIB:6.0f}"
        f" ({took / found['predicted'] - 1:+.0%})  process {found['peak'] / MIB:6.0f} MiB"
        f"  {found['sweeps']} Sweeps, {found['blocks']} Blocks; predicted {found['parts']}",
        flush=True,
    )
    return found


def output_of(*arguments: object) -> dict[str, Any]:
    """What this module prints, called with `arguments` in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    variables = {**os.environ, **process_variables(NUM_LANES, ROI)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=variables)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Print the tables; 1 where a goal is missed."""
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(run_case(*map(int, sys.argv[2:5]))))
        return 0
    if sys.argv[1:2] == ["--job"]:
        print(json.dumps(run_job(int(sys.argv[2]))))
        return 0
    job_growth = jobs_growth([256, 512, *([1024] if "--long" in sys.argv else [])])
    edges = [256, 512, 1024] if "--quick" not in sys.argv else [256, 512]
    filled = footprint_of(256, 2)
    by_edge = [measure(edge, 2, filled) for edge in edges]
    by_classes = [measure(256, classes, 2**31) for classes in (2, 14, 61)]
    growth = by_edge[-1]["peak"] / by_edge[0]["peak"] - 1
    used = [(one["peak"] - one["before"]) / one["predicted"] for one in (*by_edge, *by_classes)]
    print(f"from {edges[0]}³ to {edges[-1]}³ the process grows by {growth:.1%}")
    print(f"of what was predicted {min(used):.0%} to {max(used):.0%} were taken")
    return int(max(growth, job_growth) > GOAL or max(used) > 1)


def jobs_growth(edges: Sequence[int]) -> float:
    """By which share a Replica's process is larger after the last volume than after the first."""
    peaks = []
    for edge in edges:
        found = output_of("--job", edge)
        peaks.append(found["peak"])
        print(f"{edge:5}³ Job, {found['tiles']} tiles: Replica's process {peaks[-1] / MIB:.0f} MiB")
    growth = peaks[-1] / peaks[0] - 1
    print(f"from {edges[0]}³ to {edges[-1]}³ a Replica grows by {growth:.1%}")
    return growth


def run_job(edge: int) -> dict[str, int]:
    """Segment a volume of edge³ voxels of noise; the most that a Replica held, in bytes."""
    with tempfile.TemporaryDirectory() as folder, ray_running():
        archive = open_archive(f"{folder}/archive", create=True)
        voxels = np.random.default_rng(0).integers(-1000, 1000, (1, edge, edge, edge), np.int16)
        archive.write_scan(Scan("noise", voxels, np.eye(4), ("CT",), "CT"), source={})
        del voxels
        save_bundle(Path(folder) / "bundle", NETWORK, NETWORK.build_network().state_dict())
        fields = {
            "archive": archive.url,
            "model": f"{folder}/bundle",
            "labels": "noise",
            "inference": {"engine": "torch"},
            "resources": {"memory_budget": JOB_BUDGET},
        }
        summary = segment(SegmentSpec.model_validate(fields))
    if summary.done != 1 or summary.tiles_predicted != summary.tiles_planned:
        raise SystemExit(f"the Job did not end as it should: {summary}")
    return {"peak": summary.actual.memory_bytes or 0, "tiles": summary.tiles_predicted}


def footprint_of(edge: int, num_classes: int) -> int:
    """Bytes that a volume takes as one Block."""
    grid = TileGrid.of((edge,) * 3, ROI, OVERLAP)
    return footprint(BlockLayout.whole(grid), ModelCost(1, num_classes), 2).total


if __name__ == "__main__":
    sys.exit(main())
