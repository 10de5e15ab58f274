"""A Ray cluster of several nodes on this machine, made to be hurt.

Every process that is killed here was started here: a node's own, or one below it.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil
from ray._common.utils import get_ray_address_file
from ray.cluster_utils import Cluster

KillKind = Literal["replica", "worker", "node"]

OBJECT_STORE_BYTES = 200 * 2**20
_QUICK = {  # a node that is gone is known to be after seconds, not half a minute
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 10,
    "worker_niceness": 0,
}


class HurtCluster:
    """A head without CPUs for the driver to join, and `num_nodes` nodes that work."""

    def __init__(
        self,
        num_nodes: int,
        *,
        cpus_per_node: int = 1,
        object_store_bytes: int = OBJECT_STORE_BYTES,
    ) -> None:
        self._num_nodes, self._cpus = num_nodes, cpus_per_node
        self._store_bytes = object_store_bytes
        self._cluster: Any = None
        self._folder = ""

    def __enter__(self) -> Self:
        # Ray's sockets live below this folder, and a socket's path has at most 107 characters.
        self._folder = tempfile.mkdtemp(prefix="ubs", dir="/tmp")
        logging.getLogger("ray").setLevel(logging.ERROR)
        # Cluster notes its address in Ray's own folder, and does not make that.
        Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": self._store_bytes,
                "include_dashboard": False,
                "temp_dir": self._folder,
                "_system_config": _QUICK,
            },
        )
        for _ in range(self._num_nodes):
            self.add_node()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Where a driver joins it."""
        return str(self._cluster.address)

    def add_node(self) -> None:
        """Have one node more."""
        self._cluster.add_node(
            num_cpus=self._cpus, object_store_memory=self._store_bytes, include_log_monitor=False
        )

    def kill(self, kind: KillKind, chance: random.Random) -> bool:
        """Kill one at random, with SIGKILL; whether there was one. Of nodes, one with Replicas."""
        if kind == "node":
            return self._kill_node(chance)
        victims = [one for one in self._workers() if _is_replica(one) == (kind == "replica")]
        if not victims:
            return False
        with suppress(psutil.NoSuchProcess):
            chance.choice(victims).kill()
        return True

    def _kill_node(self, chance: random.Random) -> bool:
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: str(node.unique_id))
        if len(nodes) < 1:
            return False
        busy = [node for node in nodes if any(map(_is_replica, _below(node)))]
        node = chance.choice(busy or nodes)
        workers = _below(node)
        self._cluster.remove_node(node, allow_graceful=False)
        for process in workers:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return True

    @property
    def num_nodes(self) -> int:
        """Nodes that work now."""
        return len(self._cluster.worker_nodes)

    def _workers(self) -> list[psutil.Process]:
        """Processes that run tasks and actors, by age."""
        found = [process for node in self._cluster.worker_nodes for process in _below(node)]
        return sorted(filter(_is_worker, found), key=lambda one: one.pid)


def _below(node: Any) -> list[psutil.Process]:
    """What runs below a node's own processes."""
    found: list[psutil.Process] = []
    for kept in node.all_processes.values():
        for one in kept:
            with suppress(psutil.NoSuchProcess):
                found += psutil.Process(one.process.pid).children(recursive=True)
    return found


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error, IndexError):
        return str(process.cmdline()[0])
    return ""


def _is_worker(process: psutil.Process) -> bool:
    title = _title(process)  # a node goes with its agents: they are not killed alone
    return title.startswith("ray::") and not title.split(":")[2].endswith("Agent")


def _is_replica(process: psutil.Process) -> bool:
    return _title(process).startswith("ray::Replica")
