"""Claims of the Jobs of one cluster, as the actor that keeps them does, without Ray."""

from __future__ import annotations

import pytest

from unet_batch.inference.pool import ReplicaSize
from unet_batch.planning.control import Control
from unet_batch.planning.shares import Claim
from unet_batch.planning.specs.segment import ResourceSpec
from unet_batch.workflows import sharing
from unet_batch.workflows.sharing import FORGOTTEN_S, Claims, capacity, replicas_shared


def test_a_job_alone_has_no_limit_and_two_divide_the_cluster() -> None:
    claims = Claims()
    assert claims.renew(Claim("a", 8, 8)) is None
    assert claims.renew(Claim("b", 8, 8, share=3.0)) == 6
    assert claims.renew(Claim("a", 8, 8)) == 2
    claims.withdraw("b")
    assert claims.renew(Claim("a", 8, 8)) is None


def test_a_claim_that_is_not_renewed_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now, claims = [0.0], Claims()
    monkeypatch.setattr(sharing.time, "monotonic", lambda: now[0])
    claims.renew(Claim("dead", 8, 8, priority=9))
    assert claims.renew(Claim("a", 8, 8)) == 1
    now[0] = FORGOTTEN_S + 1
    assert claims.renew(Claim("a", 8, 8)) is None


def node(*, alive: bool = True, **resources: float) -> dict[str, object]:
    return {"Alive": alive, "Resources": resources}


def test_the_capacity_counts_whole_replicas_on_each_living_node() -> None:
    nodes = [node(CPU=7), node(CPU=16, GPU=2), node(alive=False, CPU=64, GPU=8)]
    assert capacity(ReplicaSize(1, 4, 0.0), nodes) == 5
    assert capacity(ReplicaSize(1, 4, 1.0), nodes) == 2


def test_a_ray_of_ones_own_is_not_shared() -> None:
    control = Control()
    with replicas_shared("j", ReplicaSize(2, 1, 0.0), ResourceSpec(), control):
        assert control.max_replicas is None
