"""Driver: carries out on Ray what the Schedule decides, and tells it what happened.

One loop waits for whichever piece of work ends first. All that the loop holds are
references: voxels go from the read tasks to the Replicas, and labels from the Replicas to
the writers, through Ray's object store.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, cast

import numpy as np
import ray
from ray.exceptions import RayError

from unet_batch.errors import reason_of
from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.deaths import DEATHS, Coroner
from unet_batch.inference.head import Head
from unet_batch.inference.outcome import Outcome, Target
from unet_batch.inference.pool import ReplicaPool
from unet_batch.inference.postprocessing import postprocess
from unet_batch.inference.reading import PieceRef, read_pack, read_pieces
from unet_batch.inference.replica import ReplicaReport
from unet_batch.inference.stitching import stitch
from unet_batch.inference.writing import Done, publish, write_regions
from unet_batch.monitoring import events
from unet_batch.monitoring.events import Listener
from unet_batch.planning.messages import (
    Close,
    Event,
    Instruction,
    Predict,
    Publish,
    Read,
    Region,
    Release,
    ReplicaGone,
    ReplicaReady,
    StepKey,
    Stitch,
    VolumeFailed,
    WasPredicted,
    WasPublished,
    WasRead,
    WasStitched,
    WasWritten,
    Write,
)
from unet_batch.planning.plan import BlockKey, Plan
from unet_batch.planning.schedule import Schedule
from unet_batch.storage.volume import Volume
from unet_batch.tiling.blocks import Cell
from unet_batch.tiling.box import Box

Ref = Any  # ray.ObjectRef: its own generic type tells mypy nothing


class Driver:
    """Runs one Plan to its end.

    Parameters
    ----------
    plan: what to do.
    schedule: decides the order.
    pool: Replicas; the Driver starts those that are missing and replaces those that die.
    volumes: opens a Volume by id.
    target: where a Volume's labels go.
    head: what is read out of finished sums.
    on_outcome: called once a Volume, as soon as its outcome is known.
    listen: hears what happens.
    """

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        pool: ReplicaPool,
        *,
        volumes: Callable[[str], Volume],
        target: Callable[[str], Target],
        head: Head,
        on_outcome: Callable[[Outcome], None],
        listen: Listener = events.ignore,
    ) -> None:
        self._plan, self._schedule, self._pool = plan, schedule, pool
        self._volumes, self._target, self._on_outcome = volumes, target, on_outcome
        self._head = head
        self._listen = listen
        self._pending: dict[Ref, Callable[[Ref], Iterable[Event]]] = {}
        self._local: deque[Event] = deque()
        self._inputs: dict[StepKey, dict[BlockKey, list[PieceRef]]] = {}
        self._unread: Counter[StepKey] = Counter()
        self._cells: dict[tuple[str, Box], Ref] = {}
        self._uses: Counter[tuple[str, Box]] = Counter()
        self._sums: dict[tuple[str, Box], dict[int, Ref]] = {}
        self._began: dict[str, float] = {}
        self._worked: dict[str, list[str]] = {}
        self._ready: set[str] = set()
        self._short: set[str] = set()
        self._coroner = Coroner()

    def run(self) -> None:
        """Until every Volume has its outcome. Raises ReplicaError where no Replica can start."""
        for name, ref in self._pool.start_all():
            self._pending[ref] = partial(self._was_started, name)
        self._carry_out(self._schedule.start(num_replicas=self._pool.size.count))
        while not self._schedule.is_finished:
            for event in self._next_events():
                self._carry_out(self._schedule.handle(event))
            self._tell_queue()
        self._settle()

    def _settle(self) -> None:
        """Wait for what is still written of Volumes given up: nothing may come late, and last."""
        late = [
            ref
            for ref, then in self._pending.items()
            if isinstance(then, partial) and then.func == self._was_written
        ]
        if late:
            ray.wait(late, num_returns=len(late), fetch_local=False)

    # ---- events ---------------------------------------------------------------------------

    def _next_events(self) -> Iterable[Event]:
        """Events already known, else those of whatever ends next."""
        if self._local:
            yield self._local.popleft()
            return
        waiting = list(self._pending)
        done, _ = ray.wait(waiting, num_returns=1, timeout=None, fetch_local=False)
        if len(waiting) > 1:
            done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        for ref in done:
            yield from self._pending.pop(ref)(ref)

    def _carry_out(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Read():
                    self._read(instruction)
                case Predict():
                    self._predict(instruction)
                case Release(key):
                    self._inputs.pop(key, None)
                case Stitch(volume_id, cell):
                    self._stitch(volume_id, cell)
                case Write(regions):
                    self._write(regions)
                case Publish(volume_ids):
                    self._publish(volume_ids)
                case Close():
                    self._close(instruction)

    def _tell_queue(self) -> None:
        busy = self._schedule.busy_replicas
        idle = self._schedule.num_replicas - busy
        self._listen(events.QueueChanged(self._schedule.in_flight, busy, idle))

    # ---- Replicas -------------------------------------------------------------------------

    def _start_replica(self) -> None:
        name, ref = self._pool.start()
        self._pending[ref] = partial(self._was_started, name)

    def _was_started(self, name: str, ref: Ref) -> Iterable[Event]:
        try:
            ray.get(ref)
        except RayError as error:
            self._pool.lose(name, reason_of(error), was_ready=False)
            self._start_replica()
            return
        self._pool.note_ready()
        self._ready.add(name)
        yield ReplicaReady(name)

    def _replica_died(self, call: Predict, error: RayError) -> Iterable[Event]:
        name = call.replica
        if name not in self._pool:
            return  # several calls were in flight: the first has told already
        death = self._coroner.explain(error)
        if death.is_short:
            self._short.update(key.volume_id for key in call.step)
        self._pool.lose(name, death.reason, was_ready=name in self._ready)
        self._listen(events.ReplicaLost(death.reason))
        self._start_replica()
        yield ReplicaGone(name, death.reason)

    # ---- reading --------------------------------------------------------------------------

    def _read(self, order: Read) -> None:
        inputs = self._inputs[order.key] = {}
        started, boxes = perf_counter(), []
        for key in order.step:
            self._began.setdefault(key.volume_id, started)
            plan = self._plan.volumes[key.volume_id]
            boxes.append(plan.layout.read_box(plan.block(key), rebuild=order.rebuild))
        work = [
            (self._volumes(key.volume_id), box) for key, box in zip(order.step, boxes, strict=True)
        ]
        found = [[piece] for piece in read_pack(work)] if len(work) > 1 else [read_pieces(*work[0])]
        inputs.update(zip(order.step, found, strict=True))
        refs = {piece.ref for pieces in inputs.values() for piece in pieces}
        self._unread[order.key] = len(refs)
        for ref in refs:
            self._pending[ref] = partial(self._was_read, order.key, started, inputs)

    def _was_read(
        self, key: StepKey, started: float, inputs: Mapping[BlockKey, list[PieceRef]], _: Ref
    ) -> Iterable[Event]:
        """A piece is there, or failed: that is found out where the voxels go, not here."""
        self._unread[key] -= 1
        if self._unread[key] or self._inputs.get(key) is not inputs:
            return
        num_bytes = sum(
            piece.box.num_voxels * np.dtype(self._plan.volumes[block.volume_id].info.dtype).itemsize
            for block, pieces in inputs.items()
            for piece in pieces
        )
        self._listen(events.StageTimed("read", perf_counter() - started, num_bytes))
        yield WasRead(key)

    # ---- predicting -----------------------------------------------------------------------

    def _predict(self, call: Predict) -> None:
        orders = [self._order(key, rebuild=call.rebuild) for key in call.step]
        inputs = [self._inputs[call.key][key] for key in call.step]
        num_cells = sum(len(order.layout.cells(order.block)) for order in orders)
        actor = self._pool.actor(call.replica)
        report, *cells = actor.predict.options(num_returns=1 + num_cells).remote(orders, inputs)
        self._pending[report] = partial(self._was_predicted, call, orders, cells)

    def _order(self, key: BlockKey, *, rebuild: bool) -> BlockOrder:
        plan = self._plan.volumes[key.volume_id]
        return BlockOrder(
            key.volume_id, plan.layout, plan.block(key), plan.info.statistics, rebuild
        )

    def _was_predicted(
        self, call: Predict, orders: list[BlockOrder], cells: list[Ref], ref: Ref
    ) -> Iterable[Event]:
        try:
            report = cast("ReplicaReport", ray.get(ref))
        except DEATHS as error:
            yield from self._replica_died(call, error)
            return
        except RayError as error:
            failures = dict.fromkeys(call.step, reason_of(error))
            yield WasPredicted(call.key, call.replica, failures)
            return
        failed = {key: why for key, why in zip(call.step, report.failures, strict=True) if why}
        short = zip(call.step, report.short, strict=True)
        self._short.update(key.volume_id for key, is_short in short if is_short)
        for text in report.warnings:
            self._listen(events.Warned(f"{call.replica}: {text}"))
        self._keep_cells(orders, cells, failed)
        self._tell_predicted(orders, report)
        for key in call.step:
            self._worked.setdefault(key.volume_id, []).append(call.replica)
        yield WasPredicted(call.key, call.replica, failed)

    def _keep_cells(
        self, orders: list[BlockOrder], refs: list[Ref], failed: Mapping[BlockKey, str]
    ) -> None:
        remaining = iter(refs)
        for order in orders:
            key = BlockKey(order.volume_id, order.block.sweep, order.block.number)
            for cell in order.layout.cells(order.block):
                ref = next(remaining)
                if key in failed:
                    continue
                if cell.is_seam:
                    self._sums.setdefault((order.volume_id, cell.box), {})[key.sweep] = ref
                else:
                    self._keep_labels(order.volume_id, cell.box, ref)

    def _keep_labels(self, volume_id: str, box: Box, ref: Ref) -> None:
        shard = self._plan.volumes[volume_id].info.shard_zyx
        self._cells[volume_id, box] = ref
        self._uses[volume_id, box] = sum(1 for _ in box.split(shard))

    def _tell_predicted(self, orders: list[BlockOrder], report: ReplicaReport) -> None:
        voxels = sum(order.layout.scan_region(order.block).num_voxels for order in orders)
        self._listen(
            events.StageTimed(
                "predict",
                report.busy_s,
                num_voxels=voxels,
                num_tiles=report.num_tiles,
                num_skipped=report.num_skipped,
                parts=report.seconds,
                peak_rss_bytes=report.peak_rss_bytes,
            )
        )

    # ---- stitching, writing, publishing ---------------------------------------------------

    def _stitch(self, volume_id: str, cell: Cell) -> None:
        sums = self._sums.pop((volume_id, cell.box))
        done, labels = stitch.remote(self._head, *(sums[sweep] for sweep in cell.sweeps))
        self._pending[done] = partial(self._was_stitched, volume_id, cell, labels)

    def _was_stitched(self, volume_id: str, cell: Cell, labels: Ref, ref: Ref) -> Iterable[Event]:
        done = self._result(ref, [volume_id])
        self._listen(events.StageTimed("stitch", done.seconds, done.num_bytes))
        self._keep_labels(volume_id, cell.box, labels)
        for reason in done.failures.values():
            yield VolumeFailed(volume_id, reason)
        yield WasStitched(volume_id, cell)

    def _write(self, regions: tuple[Region, ...]) -> None:
        work = [
            (
                self._target(region.volume_id).written,
                region.box,
                [(box, self._cells[region.volume_id, box]) for box in region.cells],
            )
            for region in regions
        ]
        self._pending[write_regions.remote(work)] = partial(self._was_written, regions)

    def _was_written(self, regions: tuple[Region, ...], ref: Ref) -> Iterable[Event]:
        done = self._result(ref, [region.volume_id for region in regions])
        voxels = sum(region.box.num_voxels for region in regions)
        self._listen(events.StageTimed("write", done.seconds, done.num_bytes, num_voxels=voxels))
        for region in regions:
            for box in region.cells:
                self._drop_use((region.volume_id, box))
        for volume_id, reason in done.failures.items():
            yield VolumeFailed(volume_id, reason)
        yield WasWritten(regions)

    def _publish(self, volume_ids: tuple[str, ...]) -> None:
        targets = [self._target(volume_id) for volume_id in volume_ids]
        if any(target.steps for target in targets):
            ref = postprocess.remote([(target.labels, target.steps) for target in targets])
            self._pending[ref] = partial(self._was_postprocessed, volume_ids)
        else:
            self._show(volume_ids, volume_ids)

    def _was_postprocessed(self, volume_ids: tuple[str, ...], ref: Ref) -> Iterable[Event]:
        done = self._result(ref, volume_ids)
        self._listen(events.StageTimed("postprocess", done.seconds, done.num_bytes))
        for volume_id, reason in done.failures.items():
            yield VolumeFailed(volume_id, reason)
        self._show(tuple(one for one in volume_ids if one not in done.failures), volume_ids)

    def _show(self, volume_ids: tuple[str, ...], asked: tuple[str, ...]) -> None:
        """Publish `volume_ids`; all that the Schedule asked for are then through."""
        targets = [self._target(volume_id) for volume_id in volume_ids]
        ref = publish.remote([(target.labels, target.provenance) for target in targets])
        self._pending[ref] = partial(self._was_published, asked)

    def _was_published(self, volume_ids: tuple[str, ...], ref: Ref) -> Iterable[Event]:
        done = self._result(ref, volume_ids)
        self._listen(events.StageTimed("publish", done.seconds))
        for volume_id, reason in done.failures.items():
            yield VolumeFailed(volume_id, reason)
        yield WasPublished(volume_ids)

    def _result(self, ref: Ref, volume_ids: Iterable[str]) -> Done:
        """What a task returned; a task that Ray gave up on fails its Volumes."""
        try:
            return cast("Done", ray.get(ref))
        except RayError as error:
            return Done(0.0, 0, dict.fromkeys(volume_ids, reason_of(error)))

    # ---- the end of a Volume --------------------------------------------------------------

    def _close(self, close: Close) -> None:
        if close.outcome == "quarantined":
            self._drop_volume(close.volume_id)
        began = self._began.pop(close.volume_id, perf_counter())
        replicas = tuple(dict.fromkeys(self._worked.pop(close.volume_id, [])))
        seconds = perf_counter() - began
        is_short = close.outcome == "quarantined" and close.volume_id in self._short
        self._on_outcome(
            Outcome(close.volume_id, close.outcome, close.reason, seconds, replicas, is_short)
        )

    def _drop_volume(self, volume_id: str) -> None:
        """Forget a Volume that was given up, here and on the Replicas."""
        self._pool.forget(volume_id)
        for key in [key for key in self._cells if key[0] == volume_id]:
            del self._cells[key]
            self._uses.pop(key, None)
        for key in [key for key in self._sums if key[0] == volume_id]:
            del self._sums[key]

    def _drop_use(self, key: tuple[str, Box]) -> None:
        self._uses[key] -= 1
        if self._uses[key] <= 0:
            self._uses.pop(key, None)
            self._cells.pop(key, None)
