"""Workforce: who carries out what the Driver starts. Ray does; a simulation may.

The Driver knows only references: it starts a piece of work, waits for whichever ends first,
and asks what came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ray

from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.head import Head
from unet_batch.inference.places import PACKS
from unet_batch.inference.postprocessing import postprocess
from unet_batch.inference.reading import IO_CPUS, IO_WORKERS, read_pack, read_pieces
from unet_batch.inference.references import ArrayRef, PieceRef, Ref
from unet_batch.inference.stitching import prepare_stitcher, stitch
from unet_batch.inference.writing import Publication, RegionWork, publish, write_regions
from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.storage.labels_set import LabelsSet
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box

ReadWork = Sequence[tuple[Volume, Box]]
WriteWork = Sequence[RegionWork]
MendWork = Sequence[tuple[LabelsSet, tuple[PostprocessStep, ...]]]
PublishWork = Sequence[Publication]


class Workforce(Protocol):
    """Starts work and returns at once, with references to what will come of it."""

    def read(self, work: ReadWork) -> list[list[PieceRef]]:
        """The pieces of each box."""

    def predict(
        self, actor: Any, orders: Sequence[BlockOrder], inputs: Sequence[Sequence[PieceRef]]
    ) -> tuple[Ref, list[ArrayRef]]:
        """A ReplicaReport, and the array of each cell of each Block in turn."""

    def prepare_stitching(self) -> None:
        """Have workers ready for `stitch` before it is needed."""

    def stitch(self, head: Head, sums: Sequence[ArrayRef]) -> tuple[Ref, ArrayRef]:
        """A Done, and the planes of a Seam."""

    def write(self, work: WriteWork, whole: PublishWork) -> Ref:
        """A Done; the Labels `whole` with what is written are published by it."""

    def postprocess(self, work: MendWork) -> Ref:
        """A Done."""

    def publish(self, work: PublishWork) -> Ref:
        """A Done."""

    def wait(self, refs: Sequence[Ref], *, timeout_s: float | None = None) -> list[Ref]:
        """Those of `refs` that are there, in their order; at least one, or none after the time."""

    def wait_for_all(self, refs: Sequence[Ref]) -> None:
        """Return when all are there."""

    def result(self, ref: Ref) -> Any:
        """What came of a reference that is there. Raises RayError where it failed."""

    def is_full(self) -> bool:
        """Whether no node has room for a task that reads or writes."""

    def num_cpus(self) -> float:
        """Of all nodes that live, idle or not."""


class RayWorkforce:
    """Ray's tasks and actors."""

    def read(self, work: ReadWork) -> list[list[PieceRef]]:
        """One task for many small boxes; a large one is read by several."""
        if len(work) > 1:
            return [[piece] for piece in read_pack(work)]
        return [read_pieces(*work[0])]

    def predict(
        self, actor: Any, orders: Sequence[BlockOrder], inputs: Sequence[Sequence[PieceRef]]
    ) -> tuple[Ref, list[ArrayRef]]:
        """A call of the actor, with a return for each cell; with one for all cells of a pack."""
        num_cells = sum(len(order.layout.cells(order.block)) for order in orders)
        if len(orders) > 1:
            predict_pack = actor.predict_pack.options(num_returns=2, concurrency_group=PACKS)
            report, cells = predict_pack.remote(orders, inputs)
            return report, [ArrayRef(cells, index) for index in range(num_cells)]
        report, *each = actor.predict.options(num_returns=1 + num_cells).remote(orders, inputs)
        return report, list(map(ArrayRef, each))

    def prepare_stitching(self) -> None:
        """As many as read and write beside a Replica: any of them may be the one to stitch."""
        for _ in range(IO_WORKERS):
            prepare_stitcher.remote()

    def stitch(self, head: Head, sums: Sequence[ArrayRef]) -> tuple[Ref, ArrayRef]:
        """A task that takes the sums where they are: each a return of its own, of a lone Block."""
        done, labels = stitch.remote(head, *(one.ref for one in sums))
        return done, ArrayRef(labels)

    def write(self, work: WriteWork, whole: PublishWork) -> Ref:
        """One task for all."""
        return write_regions.remote(work, whole)

    def postprocess(self, work: MendWork) -> Ref:
        """One task for all."""
        return postprocess.remote(work)

    def publish(self, work: PublishWork) -> Ref:
        """One task for all."""
        return publish.remote(work)

    def wait(self, refs: Sequence[Ref], *, timeout_s: float | None = None) -> list[Ref]:
        """Wait for the first, then take what else is there."""
        refs = list(refs)
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
        if done and len(refs) > 1:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        return list(done)

    def wait_for_all(self, refs: Sequence[Ref]) -> None:
        """Without fetching them."""
        if refs:
            ray.wait(list(refs), num_returns=len(refs), fetch_local=False)

    def result(self, ref: Ref) -> Any:
        """Fetched to this process: reports are small."""
        return ray.get(ref)

    def is_full(self) -> bool:
        """As Ray counts CPUs."""
        return float(ray.available_resources().get("CPU", 0.0)) < IO_CPUS  # type: ignore[no-untyped-call]

    def num_cpus(self) -> float:
        """As Ray counts CPUs."""
        return float(ray.cluster_resources().get("CPU", 0.0))  # type: ignore[no-untyped-call]
