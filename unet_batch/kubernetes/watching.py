"""Watch: what is to be concluded from what was seen of a RayJob, and when.

KubeRay's status cannot be trusted alone: it has stayed Running for ever after the head of a
cluster was lost (kuberay#2161, #3903), and the driver runs on the head. So the head's pod is
looked at too. Pure but for the times it is given; seconds of any clock that never steps back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from unet_batch.kubernetes.rayjob import RayJobStatus

Verdict = Literal["succeeded", "failed", "deleted", "hung", "timeout"]


@dataclass(frozen=True, slots=True)
class Head:
    """The head's pod of a RayCluster: which one it is, and whether it lives."""

    uid: str
    restarts: int
    is_alive: bool

    @classmethod
    def of(cls, pods: Sequence[Mapping[str, Any]]) -> Self | None:
        """The head among `pods` as the API server lists them; None where there is none."""
        for pod in pods:
            status = pod.get("status") or {}
            containers = status.get("containerStatuses") or []
            return cls(
                uid=pod["metadata"].get("uid", ""),
                restarts=sum(one.get("restartCount", 0) for one in containers),
                is_alive=status.get("phase") in {"Pending", "Running"},
            )
        return None


@dataclass(slots=True)
class Watch:
    """Concludes how a RayJob ended, or that it will not.

    Parameters
    ----------
    deadline: when to give up.
    hung_after_s: how long KubeRay may say Running of a job whose head is lost. KubeRay's own
        check fails such a job after 300 s: let it, and step in only where it does not.
    """

    deadline: float
    hung_after_s: float
    _cluster: str = field(default="", init=False)
    _first_head: Head | None = field(default=None, init=False)
    _lost_since: float | None = field(default=None, init=False)

    def see(self, status: RayJobStatus | None, head: Head | None, *, now: float) -> Verdict | None:
        """What follows from the RayJob's status (None: it is gone) and its head; None: wait."""
        if status is None:
            return "deleted"
        if status.state in ("succeeded", "failed"):
            return status.state
        if self._is_hung(status, head, now):
            return "hung"
        return "timeout" if now >= self.deadline else None

    def _is_hung(self, status: RayJobStatus, head: Head | None, now: float) -> bool:
        if status.state != "running" or status.cluster != self._cluster:
            # Not running, or a retry on a new cluster: what was known of the old head is void.
            self._cluster, self._first_head, self._lost_since = status.cluster, head, None
            return False
        self._first_head = self._first_head or head
        if head is not None and head.is_alive and head == self._first_head:
            self._lost_since = None
            return False
        self._lost_since = now if self._lost_since is None else self._lost_since
        return now - self._lost_since >= self.hung_after_s
