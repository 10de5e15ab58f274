"""Calibration: how fast a Job's model runs on this machine, measured as a Replica runs it.

A process of its own starts as a Replica does, loads the Bundles, and predicts a Block of a few
tiles of noise, from raw voxels to labels. What it finds is kept with its circumstances (machine,
threads, PyTorch, weights, inference), in `~/.cache/unet-batch`, for as long as they are the same.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.choosing import load_engine
from unet_batch.inference.cluster import variables
from unet_batch.inference.engine import Frame
from unet_batch.inference.model_address import load_model
from unet_batch.inference.replica import TILES_COMPARED, Replica
from unet_batch.models.precision import resolve_precision
from unet_batch.models.process import own_device, process_variables
from unet_batch.planning.lanes import lane_counts
from unet_batch.planning.prediction import Calibration
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics, Json
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid
from unet_batch.workflows.engine_choice import why_unmeasured
from unet_batch.workflows.segment_job import SegmentJob

TILES_ZYX, TILES_YX = (3, 2, 2), (1, 4, 3)
"""Tiles of the Block that is predicted, of a network in space and of a planar one."""

REPEATS, LEAST_S = 4, 1.5
"""How often, and how long at the least, the Block is predicted."""


def calibrate(job: SegmentJob, *, num_tiles: int, num_threads: int) -> Calibration:
    """The Calibration of a Job of `num_tiles`; measured where none is kept for these circumstances.

    Raises what loading the Bundles raises.
    """
    chooses = _chooses(job, num_tiles)
    found = known_calibration(job, num_tiles=num_tiles, num_threads=num_threads)
    if found is not None:
        return found
    circumstances = _circumstances(job, num_threads, chooses=chooses)
    spawn = multiprocessing.get_context("spawn")
    num_lanes = lane_counts(num_threads)[0]
    own = process_variables(num_lanes, job.roi_zyx)
    with variables(own), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        measured = pool.submit(
            _measure,
            job.model_paths,
            job.spec.inference,
            job.roi_zyx,
            num_threads=num_threads,
            num_lanes=num_lanes,
            trust_network=job.spec.trust_network,
            chooses=chooses,
            began_at=time.time(),
        ).result()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    calibration = replace(measured, source=f"measured here at {at}", circumstances=circumstances)
    _keep(calibration)
    return calibration


def known_calibration(job: SegmentJob, *, num_tiles: int, num_threads: int) -> Calibration | None:
    """The Calibration that was kept for these circumstances, if one was."""
    chooses = _chooses(job, num_tiles)
    path = _place(_circumstances(job, num_threads, chooses=chooses))
    try:
        return Calibration(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # none, or of another version of this program


def _measure(
    models: Sequence[str],
    inference: InferenceSpec,
    roi_zyx: tuple[int, int, int],
    *,
    num_threads: int,
    num_lanes: int,
    trust_network: bool,
    chooses: bool,
    began_at: float,
) -> Calibration:
    """The figures of a Calibration; to be called first in a new process, begun `began_at`."""
    loaded_s = time.time() - began_at
    started = time.perf_counter()
    replica = Replica(
        models,
        inference,
        roi_zyx=roi_zyx,
        engine="torch" if inference.engine == "auto" else inference.engine,
        num_threads=num_threads,
        num_lanes=num_lanes,
        trust_network=trust_network,
    )
    name = replica.warm_up()
    start_s = loaded_s + time.perf_counter() - started
    started = time.perf_counter()
    if chooses:
        name = replica.use_engine(replica.choose_engine().kind)
    choice_s = time.perf_counter() - started
    base_bytes = 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    return Calibration(
        seconds_per_tile=_pace(replica, inference, roi_zyx),
        start_s=start_s,
        choice_s=choice_s,
        check_s=_check_s(models, inference, roi_zyx, trust_network=trust_network),
        base_bytes=base_bytes,
        engine=name,
    )


def _pace(replica: Replica, inference: InferenceSpec, roi_zyx: tuple[int, int, int]) -> float:
    """Seconds a tile, with all that is done from raw voxels to finished cells."""
    order, voxels_czyx = _block(replica.num_channels, inference, roi_zyx)
    pieces = [(Box.from_shape(voxels_czyx.shape), voxels_czyx)]
    found: list[float] = []
    until = time.perf_counter() + LEAST_S
    while len(found) < REPEATS or time.perf_counter() < until:
        found.append(replica.seconds_per_tile(order, pieces))
    return median(found)


def _check_s(
    models: Sequence[str],
    inference: InferenceSpec,
    roi_zyx: tuple[int, int, int],
    *,
    trust_network: bool,
) -> float:
    """What holding bfloat16 against float32 takes; nothing where there is none."""
    device = own_device()
    if inference.precision != "auto" or resolve_precision("auto", device) == "fp32":
        return 0.0
    bundles = [load_model(model, trust_network=trust_network) for model in models]
    started = time.perf_counter()
    engine = load_engine(
        "torch", bundles, Frame.of(bundles[0], roi_zyx), precision="fp32", device=device
    )
    with torch.inference_mode():
        engine.forward(engine.tiles(TILES_COMPARED).zero_())
    return time.perf_counter() - started


def _block(
    num_channels: int, inference: InferenceSpec, roi_zyx: tuple[int, int, int]
) -> tuple[BlockOrder, NDArray[np.int16]]:
    """A Block of a few tiles, and int16 noise for it as a scanner's (c, z, y, x)."""
    counts = TILES_YX if roi_zyx[0] == 1 else TILES_ZYX
    stride = [max(1, int(n * (1 - inference.overlap))) for n in roi_zyx]
    shape = tuple(
        n + (count - 1) * step for n, count, step in zip(roi_zyx, counts, stride, strict=True)
    )
    layout = BlockLayout.whole(TileGrid.of(shape, roi_zyx, inference.overlap))
    noise = np.random.default_rng(0).integers(-1000, 1000, (num_channels, *shape), np.int16)
    one = ChannelStatistics(
        -1000, 1000, 0, 577, {0.5: -990, 50: 0, 99.5: 990}, 0.5, 500, 288, num_nonfinite=0
    )
    order = BlockOrder("noise", layout, layout.blocks(0)[0], (one,) * num_channels)
    return order, noise


def _chooses(job: SegmentJob, num_tiles: int) -> bool:
    """Whether a Replica measures Engines before it begins."""
    return not why_unmeasured(job, num_tiles, on_gpu=torch.cuda.is_available())


def _circumstances(job: SegmentJob, num_threads: int, *, chooses: bool) -> dict[str, Json]:
    """All that decides how fast tiles are predicted, but for other work on the machine."""
    has_gpu = torch.cuda.is_available()
    return {
        "machine": _processor(),
        "gpu": torch.cuda.get_device_name() if has_gpu else "",
        "threads": num_threads,
        "torch": torch.__version__,
        "program": Calibration.__module__ + " 3",
        "model": job.model_hash,
        "inference": job.spec_hash,
        "engines_compared": chooses,
    }


def _processor() -> str:
    """The processor's name, and how many there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {name}"


def _place(circumstances: Mapping[str, Json]) -> Path:
    digest = hashlib.sha256(json.dumps(circumstances, sort_keys=True).encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "unet-batch" / f"calibration-{digest}.json"


def _keep(calibration: Calibration) -> None:
    """Store the figures for the next time; where that cannot be, they are measured again."""
    path = _place(calibration.circumstances)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{os.getpid()}-{path.name}")
        unfinished.write_text(json.dumps(asdict(calibration), indent=1), encoding="utf-8")
        unfinished.replace(path)
