"""Which Engine a segment Job uses: what the Spec says, or what measures faster, decided once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import ray

from unet_batch.inference.choosing import EngineChoice, EngineKind, choose_engine
from unet_batch.inference.engine import Frame
from unet_batch.inference.model_address import load_model
from unet_batch.inference.pool import ReplicaSize
from unet_batch.models.process import own_device, tune_process
from unet_batch.planning.plan import Plan
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.storage.ledger import Ledger
from unet_batch.workflows.segment_job import SegmentJob

MEASURE_FROM_TILES = 256  # fewer take less time than measuring the Engines does


def resolve_engine(job: SegmentJob, plan: Plan, size: ReplicaSize, ledger: Ledger) -> EngineChoice:
    """The Job's Engine. A Job that is run again keeps the one it began with, for equal bytes."""
    wanted = job.spec.inference.engine
    if wanted != "auto":
        return EngineChoice(wanted, {})
    choice = EngineChoice("torch", {})
    if plan.num_tiles >= MEASURE_FROM_TILES:
        on_replica = ray.remote(num_cpus=size.num_cpus, num_gpus=size.num_gpus)
        measure: Any = on_replica(cast("Any", measure_engines))
        choice = ray.get(
            measure.remote(
                job.model_paths,
                job.spec.inference,
                job.roi_zyx,
                num_threads=size.num_cpus,
                trust_network=job.spec.trust_network,
            )
        )
    kind = cast("EngineKind", ledger.settle("engine", choice.kind, of=job.model_hash))
    return EngineChoice(kind, choice.seconds_per_tile)


def measure_engines(
    models: Sequence[str],
    inference: InferenceSpec,
    roi_zyx: tuple[int, int, int],
    *,
    num_threads: int,
    trust_network: bool,
) -> EngineChoice:
    """The fastest Engine for the Bundles at `models`; to be called in a process of its own."""
    tune_process(num_threads)
    bundles = [load_model(model, trust_network=trust_network) for model in models]
    return choose_engine(
        bundles,
        Frame.of(bundles[0], roi_zyx),
        precision=inference.precision,
        device=own_device(),
        batch_size=inference.batch_size,
        mirror=inference.mirror,
    )
