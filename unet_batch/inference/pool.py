"""ReplicaPool: the Replicas of a Job, started, replaced when they die, ended."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Literal, Self

import ray

from unet_batch.errors import ReplicaError
from unet_batch.inference.choosing import EngineKind
from unet_batch.inference.reading import IO_CPUS, prepare_worker
from unet_batch.inference.replica import Replica
from unet_batch.planning.specs.segment import InferenceSpec, ResourceSpec

IO_WORKERS = 2  # processes beside a Replica that read and write
MAX_FAILED_STARTS = 3  # in a row: then the model or the machine is at fault, not chance


@dataclass(frozen=True, slots=True)
class ReplicaSize:
    """How many Replicas there are, and what each takes."""

    count: int
    num_cpus: int
    num_gpus: float

    @classmethod
    def resolve(cls, spec: ResourceSpec) -> ReplicaSize:
        """`auto` filled in from the cluster: a Replica a GPU, else a Replica a node.

        Without GPUs the Replicas of a node share its CPUs evenly.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        num_gpus = sum(node.get("GPU", 0) for node in nodes)
        share = spec.gpus_per_replica or float(num_gpus > 0)
        number = int(num_gpus // share) if share else len(nodes)
        if spec.replicas != "auto":
            number = spec.replicas
        number = max(1, number)
        if spec.cpus_per_replica != "auto":
            return cls(number, spec.cpus_per_replica, share)
        widest = int(max(node.get("CPU", 1) for node in nodes))
        cores = min(widest, os.cpu_count() or 1) if len(nodes) == 1 else widest
        return cls(number, 1 if share else max(1, cores // -(-number // len(nodes))), share)


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
    ) -> None:
        self.size = size
        self._arguments = (tuple(models), inference)
        self._roi_zyx, self._engine = roi_zyx, engine
        self._actors: dict[str, Any] = {}
        self._names = (f"replica-{k}" for k in count())
        self._failed_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start_all(self) -> list[tuple[str, ray.ObjectRef[Any]]]:
        """Begin the Replicas that are missing; all names, each with a reference as `start`'s."""
        living = [(name, actor.warm_up.remote()) for name, actor in self._actors.items()]
        return living + [self.start() for _ in range(self.size.count - len(living))]

    def start(self) -> tuple[str, ray.ObjectRef[Any]]:
        """Begin one Replica; its name, and a reference that is there once it is warm."""
        name = next(self._names)
        # What a Replica leaves is for the tasks that read and write beside it.
        reserved = max(self.size.num_cpus - IO_WORKERS * IO_CPUS, IO_CPUS)
        actor_class = ray.remote(num_cpus=reserved, num_gpus=self.size.num_gpus)(Replica)
        actor: Any = actor_class.remote(
            *self._arguments,
            roi_zyx=self._roi_zyx,
            engine=self._engine,
            num_threads=self.size.num_cpus,
        )
        self._actors[name] = actor
        for _ in range(IO_WORKERS):
            prepare_worker.remote()
        warm: ray.ObjectRef[Any] = actor.warm_up.remote()
        return name, warm

    def use_precision(self, precision: Literal["fp32", "bf16"]) -> None:
        """Have Replicas compute in `precision` from now on; those that live are ended."""
        self.close()
        models, inference = self._arguments
        self._arguments = models, inference.model_copy(update={"precision": precision})

    def actor(self, name: str) -> Any:
        """The handle of a living Replica."""
        return self._actors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._actors

    def note_ready(self) -> None:
        """A Replica has started well."""
        self._failed_starts = 0

    def lose(self, name: str, reason: str, *, was_ready: bool) -> None:
        """Forget a dead Replica. Raises ReplicaError where none can be started any more."""
        self._actors.pop(name, None)
        self._failed_starts += not was_ready
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise ReplicaError(
                f"{MAX_FAILED_STARTS} Replicas in a row could not be started; the last: {reason}"
            )

    def forget(self, volume_id: str) -> None:
        """Have every Replica drop what it holds of a Volume that was given up."""
        for actor in self._actors.values():
            actor.forget.remote(volume_id)

    def close(self) -> None:
        """End all Replicas."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()
