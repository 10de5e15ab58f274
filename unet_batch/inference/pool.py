"""ReplicaPool: the Replicas of a Job, started as they are wanted, ended when they are not.

A Replica that the cluster has no room for waits, and its waiting is what tells an autoscaler
to add nodes; one that was ended frees a node for it to take away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Literal, Self

import ray

from unet_batch.errors import ReplicaError
from unet_batch.inference.choosing import EngineKind
from unet_batch.inference.places import PACKS, PACKS_AT_ONCE
from unet_batch.inference.reading import IO_CPUS, IO_WORKERS, prepare_worker
from unet_batch.inference.replica import Replica
from unet_batch.models.process import process_variables
from unet_batch.planning.specs.segment import InferenceSpec, ReplicaRange, ResourceSpec

MAX_FAILED_STARTS = 3  # in a row: then the model or its memory is at fault, not chance
MAX_KILLED_STARTS = 12  # in a row, by somebody else: preemption strikes several times


@dataclass(frozen=True, slots=True)
class ReplicaSize:
    """How many Replicas there are, and what each takes.

    `count` is how many there may be, `least` how many are kept although they are idle (None:
    all of them).
    """

    count: int
    num_cpus: int
    num_gpus: float
    fewest: int | None = None

    @property
    def least(self) -> int:
        """Replicas that are kept although they are idle."""
        return self.count if self.fewest is None else self.fewest

    @property
    def at_once(self) -> int:
        """Replicas that work is read for before any is ready; others may have to wait."""
        return max(1, self.least)

    @classmethod
    def resolve(cls, spec: ResourceSpec) -> ReplicaSize:
        """`auto` filled in from the cluster: a Replica a GPU, else a Replica a node.

        Without GPUs the Replicas of a node share its CPUs evenly; those that come and go get
        what the fewest would.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        num_gpus = sum(node.get("GPU", 0) for node in nodes)
        share = spec.gpus_per_replica or float(num_gpus > 0)
        number = int(num_gpus // share) if share else len(nodes)
        fewest = spec.replicas.min if isinstance(spec.replicas, ReplicaRange) else None
        number = max(1, spec.most_replicas or number)
        if spec.cpus_per_replica != "auto":
            return cls(number, spec.cpus_per_replica, share, fewest)
        widest = int(max(node.get("CPU", 1) for node in nodes))
        cores = min(widest, os.cpu_count() or 1) if len(nodes) == 1 else widest
        together = -(-(fewest or number) // len(nodes))  # Replicas of a node
        return cls(number, 1 if share else max(1, cores // together), share, fewest)


class ReplicaPool:
    """Replicas by name; a dead one is replaced under a new name. A context that ends them all."""

    def __init__(
        self,
        models: Sequence[str],
        inference: InferenceSpec,
        *,
        size: ReplicaSize,
        roi_zyx: tuple[int, int, int],
        engine: EngineKind = "torch",
        num_lanes: int = 1,
        trust_network: bool = False,
    ) -> None:
        self.size, self._num_lanes = size, num_lanes
        self._arguments = (tuple(models), inference)
        self._roi_zyx, self._engine, self._trust_network = roi_zyx, engine, trust_network
        self._actors: dict[str, Any] = {}
        self._names = (f"replica-{k}" for k in count())
        self._failed_starts = self._killed_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start_all(self, number: int | None = None) -> list[tuple[str, ray.ObjectRef[Any]]]:
        """All living Replicas, and as many begun as are missing from `number`.

        Each name comes with a reference as `start`'s. None: as many as work is read for.
        """
        living = [(name, actor.warm_up.remote()) for name, actor in self._actors.items()]
        missing = (self.size.at_once if number is None else number) - len(living)
        return living + [self.start() for _ in range(missing)]

    def start(self) -> tuple[str, ray.ObjectRef[Any]]:
        """Begin one Replica; its name, and a reference that is there once it is warm."""
        name = next(self._names)
        # What a Replica leaves is for the tasks that read and write beside it.
        reserved = max(self.size.num_cpus - IO_WORKERS * IO_CPUS, IO_CPUS)
        # Ray has processes ready that know no variables; one that does starts a second later.
        variables = process_variables(self._num_lanes, self._roi_zyx)
        # mypy sees annotations that know no concurrency groups.
        remote: Any = ray.remote
        actor_class = remote(
            num_cpus=reserved,
            num_gpus=self.size.num_gpus,
            runtime_env={"env_vars": variables} if variables else {},
            concurrency_groups={PACKS: PACKS_AT_ONCE},
        )(Replica)
        actor = actor_class.remote(
            *self._arguments,
            roi_zyx=self._roi_zyx,
            engine=self._engine,
            num_threads=self.size.num_cpus,
            num_lanes=self._num_lanes,
            trust_network=self._trust_network,
        )
        self._actors[name] = actor
        for _ in range(IO_WORKERS):
            prepare_worker.remote()
        warm: ray.ObjectRef[Any] = actor.warm_up.remote()
        return name, warm

    def use_precision(self, precision: Literal["fp32", "bf16"], *, num_lanes: int) -> None:
        """Have Replicas compute in `precision` from now on; those that live are ended."""
        self.close()
        self._num_lanes = num_lanes
        models, inference = self._arguments
        self._arguments = models, inference.model_copy(update={"precision": precision})

    def use_engine(self, engine: EngineKind) -> None:
        """Have Replicas run the model on `engine` from now on, those that live as well."""
        if engine != self._engine:
            self._engine = engine
            for actor in self._actors.values():
                actor.use_engine.remote(engine)

    def actor(self, name: str) -> Any:
        """The handle of a living Replica."""
        return self._actors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._actors

    def note_ready(self) -> None:
        """A Replica has started well."""
        self._failed_starts = self._killed_starts = 0

    def __len__(self) -> int:
        return len(self._actors)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._actors))

    def lose(
        self, name: str, reason: str, *, is_to_blame: bool = False, was_killed: bool = False
    ) -> None:
        """Forget a dead Replica. Raises ReplicaError where none can be started any more.

        `is_to_blame`: it could not start; `was_killed`: its process ended while it started.
        """
        self.end(name)
        self._failed_starts += is_to_blame
        self._killed_starts += was_killed
        starts = self._failed_starts + self._killed_starts
        if self._failed_starts >= MAX_FAILED_STARTS or self._killed_starts >= MAX_KILLED_STARTS:
            raise ReplicaError(
                f"{starts} Replicas in a row could not be started; the last: {reason}"
            )

    def end(self, name: str) -> None:
        """End a Replica, begun or not; nothing happens where it is gone."""
        actor = self._actors.pop(name, None)
        if actor is not None:
            ray.kill(actor)

    def forget(self, volume_id: str) -> None:
        """Have every Replica drop what it holds of a Volume that was given up."""
        for actor in self._actors.values():
            actor.forget.remote(volume_id)

    def close(self) -> None:
        """End all Replicas."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
