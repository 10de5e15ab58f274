"""Which Engine a segment Job uses: what the Spec says, or what measures faster, decided once.

A Replica that is there anyway measures. What came out is kept with the Job: run again, it
computes as it began, for equal bytes.
"""

from __future__ import annotations

from typing import cast

import ray
from ray.exceptions import RayError

from unet_batch.inference.choosing import EngineChoice, EngineKind
from unet_batch.inference.pool import ReplicaPool
from unet_batch.planning.plan import Plan
from unet_batch.storage.ledger import Ledger
from unet_batch.workflows.segment_job import SegmentJob

MEASURE_FROM_TILES = 256  # fewer take less time than measuring the Engines does
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
        return EngineChoice(known, {})
    choice = EngineChoice("torch", {})
    if plan.num_tiles >= MEASURE_FROM_TILES:
        choice = measure_engines(pool)
    kind = cast("EngineKind", ledger.settle(_DECISION, choice.kind, of=job.model_hash))
    pool.use_engine(kind)
    return EngineChoice(kind, choice.seconds_per_tile)


def measure_engines(pool: ReplicaPool) -> EngineChoice:
    """What a Replica finds; torch where it cannot, and why it could not the Job will find out.

    The Engine that it uses stays the same.
    """
    (name, _), *_ = pool.start_all()
    try:
        choice: EngineChoice = ray.get(pool.actor(name).choose_engine.remote())
    except RayError:
        return EngineChoice("torch", {})
    return choice
