"""Which Engine a segment Job uses: what the Spec says, or what measures faster, decided once.

A Replica that is there anyway measures. What came out is kept with the Job: run again, it
computes as it began, for equal bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import ray
from ray.exceptions import RayError

from unet_batch.errors import first_line
from unet_batch.inference.choosing import EngineChoice, EngineKind, has_openvino
from unet_batch.inference.pool import ReplicaPool
from unet_batch.planning.cost import CPU_PACE, Pace
from unet_batch.planning.plan import Plan
from unet_batch.storage.ledger import Ledger
from unet_batch.workflows.segment_job import SegmentJob

MEASURE_FROM_S = 30.0
"""Seconds that a Replica of nominal speed needs for a Job: in less, measuring would not pay."""

MEASURING_BYTES = 2**30
"""What OpenVINO took beside a network's weights and a pass, while it was converted and timed.

0.7 to 0.9 GiB (residual U-Net with 2 and 14 classes, DynUNet 32-320; tiles of 96³).
"""

_DECISION = "engine"


def known_engine(job: SegmentJob, ledger: Ledger) -> EngineKind | None:
    """The Engine that the Spec names or the Job began with; None where none is settled."""
    wanted = job.spec.inference.engine
    if wanted != "auto":
        return wanted
    return cast("EngineKind | None", ledger.decision(_DECISION, of=job.model_hash))


def settle_engine(job: SegmentJob, plan: Plan, pool: ReplicaPool, ledger: Ledger) -> EngineChoice:
    """Have the Replicas use the Job's Engine; which it is, and why."""
    known = known_engine(job, ledger)
    if known is not None:
        asked = job.spec.inference.engine != "auto"
        return EngineChoice(known, note="as asked" if asked else "as this Job began")
    on_gpu = pool.size.num_gpus > 0
    why = why_unmeasured(job, plan.num_tiles, plan.planner.pace, on_gpu=on_gpu)
    choice = EngineChoice("torch", note=why) if why else measure_engines(pool)
    kind = cast("EngineKind", ledger.settle(_DECISION, choice.kind, of=job.model_hash))
    pool.use_engine(kind)
    return replace(choice, kind=kind)


def why_unmeasured(
    job: SegmentJob, num_tiles: int, pace: Pace = CPU_PACE, *, on_gpu: bool = False
) -> str:
    """Why no Engine is measured before so many tiles are predicted at a nominal `pace`.

    Empty where they are: where it pays, and where the Replica's memory has room for both.
    """
    if job.spec.inference.engine != "auto":
        return "as asked"
    model, budget = job.model_cost(), job.spec.resources.memory_budget
    if num_tiles * model.tile_flops / pace.flops_per_second < MEASURE_FROM_S:
        return f"a Job of less than about {MEASURE_FROM_S:.0f} s"
    needed = model.weight_bytes + model.forward_bytes + model.num_members * MEASURING_BYTES
    if needed > budget and has_openvino() and not on_gpu:
        return (
            f"resources.memory_budget is {budget // 2**20} MiB, to time OpenVINO as well may take"
            f" {needed // 2**20}"
        )
    return ""


def measure_engines(pool: ReplicaPool) -> EngineChoice:
    """What a Replica finds; torch where it cannot, and why it could not the Job will find out.

    The Engine that it uses stays the same.
    """
    (name, _), *_ = pool.start_all()
    try:
        choice: EngineChoice = ray.get(pool.actor(name).choose_engine.remote())
    except RayError as error:
        return EngineChoice("torch", note=f"measuring failed: {first_line(error)}")
    return choice
