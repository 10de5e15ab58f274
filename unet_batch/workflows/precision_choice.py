"""Which precision a segment Job computes in: bfloat16 only where its first tiles allow it.

`inference.precision: auto` means bfloat16 on devices that have it. Before work begins, one
Replica predicts a few tiles of the first Volume that can be read in float32 as well. What came
out is kept with the Job: run again, it computes as it began, for equal bytes.
"""

from __future__ import annotations

from itertools import islice

import ray
from ray.exceptions import RayError

from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.pool import ReplicaPool
from unet_batch.inference.reading import read_pieces
from unet_batch.monitoring.events import Listener, Warned
from unet_batch.planning.plan import Plan, VolumePlan
from unet_batch.storage.ledger import Ledger
from unet_batch.storage.volume import Volume
from unet_batch.workflows.segment_job import SegmentJob

MAX_VOLUMES = 3  # tried until one can be read
_DECISION = "bf16_disagreement"


def settle_precision(
    job: SegmentJob, plan: Plan, pool: ReplicaPool, ledger: Ledger, listen: Listener
) -> None:
    """Have the Replicas compute in float32, with a warning, where bfloat16 is not precise enough.

    Nothing happens where the Spec names a precision, or the devices have no bfloat16.
    """
    inference = job.spec.inference
    if inference.precision != "auto":
        return
    share = ledger.decision(_DECISION, of=job.model_hash)
    if share is None:
        share = _disagreement(job, plan, pool)
        if share is None:
            return
        share = ledger.settle(_DECISION, share, of=job.model_hash)
    if isinstance(share, float) and share > inference.bf16_tolerance:
        listen(
            Warned(
                f"bfloat16 changes the labels of {share:.2%} of the voxels of the first tiles,"
                f" inference.bf16_tolerance allows {inference.bf16_tolerance:.2%}: computing in"
                " float32, which is slower. Raise the tolerance to keep bfloat16"
            )
        )
        pool.use_precision("fp32", num_lanes=job.num_lanes(plan, pool.size.num_cpus, "fp32"))


def _disagreement(job: SegmentJob, plan: Plan, pool: ReplicaPool) -> float | None:
    """Share of voxels of a few tiles whose labels bfloat16 changes.

    None where the Replicas compute in float32 anyway, or nothing could be compared; why, the
    Job itself will find out.
    """
    (name, _), *_ = pool.start_all()
    orders, inputs = [], []
    for volume in islice(plan.volumes.values(), MAX_VOLUMES):
        order = _middle(volume)
        box = order.layout.read_box(order.block)
        orders.append(order)
        inputs.append(read_pieces(Volume(job.archive.url, volume.info), box))
    try:
        share: float | None = ray.get(pool.actor(name).bf16_disagreement.remote(orders, inputs))
    except RayError:
        return None
    return share


def _middle(volume: VolumePlan) -> BlockOrder:
    """The Block in the middle of a Volume."""
    layout = volume.layout
    blocks = layout.blocks(len(layout.sweeps) // 2)
    block = blocks[len(blocks) // 2]
    return BlockOrder(volume.info.id, layout, block, volume.info.statistics)
