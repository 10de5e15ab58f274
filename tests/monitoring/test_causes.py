"""Reasons as the package words them fall into the kind that an operator would expect."""

from __future__ import annotations

import pytest

from unet_batch.inference.head import NOT_FINITE
from unet_batch.monitoring.causes import cause_of

REASONS = {
    "reading failed: shard c/0/0/0/0 is truncated": "unreadable",
    "Volume 'nan': 400 voxels are NaN or infinite (5.00%); inference.max_nonfinite_share"
    " allows 0.00%": "voxels",
    "Volume 'v' has 2 channels ['a', 'b']; the model takes 1: ['CT']": "channels",
    "3 Replicas died on it; the last: OutOfMemoryError: CUDA out of memory": "memory",
    "3 Replicas died on it; the last: ActorDiedError: the worker died": "replica",
    "a volume needs at least 12 MiB; resources.memory_budget is 1 MiB": "memory",
    "writing Labels 'net' failed: No space left on device": "store",
    "the network returned (1, 2) for tiles (1, 1); expected (1, 3).": "model",
    NOT_FINITE: "model",
    "something never seen before": "other",
}


@pytest.mark.parametrize(("reason", "cause"), REASONS.items())
def test_a_reason_falls_into_its_kind(reason: str, cause: str) -> None:
    assert cause_of(reason) == cause
