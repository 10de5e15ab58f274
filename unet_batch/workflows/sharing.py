"""Sharing: Jobs that run on one Ray cluster tell each other what they want, and divide it.

One small actor of the cluster keeps their claims; `planning.shares` says what follows from them.
A driver renews its claim every few seconds and holds as many Replicas as it is told; a claim that
is not renewed runs out. Nothing of it is worth keeping: a head that is started anew begins with
no claims, and each driver makes its own again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from unet_batch.inference.cluster import is_joined
from unet_batch.inference.pool import ReplicaSize
from unet_batch.planning.control import Control
from unet_batch.planning.shares import Claim, allot
from unet_batch.planning.specs.segment import ResourceSpec

RENEWED_S = 3.0
FORGOTTEN_S = 20.0
"""After so long without renewal a claim is dropped: its driver has ended, or died."""

NAME, NAMESPACE = "claims", "unet-batch"


class Claims:
    """The claims of the Jobs of one cluster. Used as a Ray actor; works as a plain object too."""

    def __init__(self) -> None:
        self._claims: dict[str, tuple[Claim, float]] = {}

    def renew(self, claim: Claim) -> int | None:
        """Replicas that this Job may hold now; None where no other Job claims any."""
        now = time.monotonic()
        self._claims[claim.job] = claim, now + FORGOTTEN_S
        self._claims = {job: one for job, one in self._claims.items() if one[1] > now}
        if len(self._claims) == 1:
            return None
        return allot(claim for claim, _ in self._claims.values())[claim.job]

    def withdraw(self, job: str) -> None:
        """A Job has ended."""
        self._claims.pop(job, None)


@contextmanager
def replicas_shared(
    job: str, size: ReplicaSize, resources: ResourceSpec, control: Control
) -> Iterator[None]:
    """Tell `control` how many Replicas the Job may hold, while the context is open.

    Nothing is shared on a Ray of the Job's own.
    """
    if not is_joined():
        yield
        return
    claim = Claim(
        job=job,
        wanted=size.count,
        capacity=max(1, capacity(size, ray.nodes())),  # type: ignore[no-untyped-call]
        priority=resources.priority,
        share=resources.share,
    )
    ended = threading.Event()
    control.max_replicas = _renewed(claim)
    keeper = threading.Thread(target=_keep, args=(claim, control, ended), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        _withdrawn(job)


def capacity(size: ReplicaSize, nodes: list[dict[str, Any]]) -> int:
    """Replicas of this size that would fill all `nodes` (`ray.nodes()`)."""
    total = 0
    for node in nodes:
        if not node["Alive"]:
            continue
        has = node["Resources"]
        fitting = [has.get("CPU", 0) // size.num_cpus]
        if size.num_gpus:
            fitting.append(has.get("GPU", 0) // size.num_gpus)
        total += int(min(fitting))
    return total


def _keep(claim: Claim, control: Control, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_S):
        control.max_replicas = _renewed(claim)


def _renewed(claim: Claim) -> int | None:
    """What is allotted; no limit where the cluster does not answer: work goes on."""
    try:
        allotted: int | None = ray.get(_actor().renew.remote(claim), timeout=FORGOTTEN_S)
    except (RayError, TimeoutError):
        return None
    return allotted


def _withdrawn(job: str) -> None:
    try:
        ray.get(_actor().withdraw.remote(job), timeout=RENEWED_S)
    except (RayError, TimeoutError):
        return  # it runs out by itself


def _actor() -> Any:
    """The one actor of the cluster; begun by whoever asks first."""
    actor: Any = ray.remote(num_cpus=0)(Claims)
    return actor.options(
        name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote()
