"""Deaths: why a Replica's process ended, as far as Ray and the kernel tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)

from unet_batch.errors import cause_of, first_line, reason_of
from unet_batch.inference.memory import is_shortage

DEATHS = (RayActorError, ActorDiedError, ActorUnavailableError, OutOfMemoryError)
"""What a call raises whose Replica is gone; Ray's memory monitor has an error of its own."""

_NODE_DIED = re.compile(r"\bnode (?:has |was )?(?:died|dead|terminated|preempted)", re.IGNORECASE)
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))


@dataclass(frozen=True, slots=True)
class Death:
    """Why a Replica is gone.

    `is_short` where it was for want of memory, `is_of_node` where its whole machine went.
    """

    reason: str
    is_short: bool
    is_of_node: bool = False


def is_lost(error: RayError) -> bool:
    """Whether `error` says that an object went with the machine that held it."""
    return isinstance(cause_of(error), ObjectLostError) or isinstance(error, ObjectLostError)


class Coroner:
    """Explains deaths. It remembers how often the kernel's OOM killer has struck on this machine.

    A process that is killed leaves no word of why, but the kernel counts. A Replica on another
    machine is told as Ray tells it.
    """

    def __init__(self, counters: tuple[Path, ...] = _COUNTERS) -> None:
        self._counters = counters
        self._kills = self._count()

    def explain(self, error: RayError) -> Death:
        """What ended the Replica whose call raised `error`."""
        kills, before = self._count(), self._kills
        self._kills = kills
        if isinstance(error, OutOfMemoryError):
            why = "killed by Ray's memory monitor, its node being out of memory"
            return Death(f"{why}: {first_line(error)}", is_short=True)
        if kills > before:
            why = "killed by the system: out of memory (the kernel's OOM killer struck just now)"
            return Death(f"{why}. {reason_of(error)}", is_short=True)
        if _node_died(error):
            return Death("the node it ran on is gone", is_short=False, is_of_node=True)
        return Death(reason_of(error), is_short=is_shortage(cause_of(error)))

    def _count(self) -> int:
        """Processes that the kernel killed for want of memory, on this machine or container."""
        found = (_KILLS.search(_text(path)) for path in self._counters)
        return sum(int(one[1]) for one in found if one)


def _node_died(error: RayError) -> bool:
    if isinstance(error, NodeDiedError) or getattr(error, "preempted", False):
        return True
    return not getattr(error, "actor_init_failed", False) and bool(_NODE_DIED.search(str(error)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # no such counter on this system
