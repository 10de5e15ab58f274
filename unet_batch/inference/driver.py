"""Driver: carries out on Ray what the Schedule decides, and tells it what happened.

One loop waits for whichever piece of work ends first. All that the loop holds are
references: voxels go from the read tasks to the Replicas, and labels from the Replicas to
the writers, through Ray's object store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import cast

import numpy as np
from ray.exceptions import RayError

from unet_batch.errors import reason_of
from unet_batch.inference.block_pass import BlockOrder
from unet_batch.inference.deaths import DEATHS, is_lost
from unet_batch.inference.head import Head
from unet_batch.inference.held import HeldCells, Reading, Workers
from unet_batch.inference.keeper import ReplicaKeeper
from unet_batch.inference.outcome import Outcome, Target
from unet_batch.inference.pool import ReplicaPool
from unet_batch.inference.references import ArrayRef, Ref
from unet_batch.inference.replica import ReplicaReport
from unet_batch.inference.workforce import PublishWork, RayWorkforce, Workforce
from unet_batch.inference.writing import Done
from unet_batch.monitoring import events
from unet_batch.monitoring.events import Listener
from unet_batch.planning.control import Control
from unet_batch.planning.messages import (
    Close,
    Event,
    Instruction,
    Predict,
    Publish,
    Read,
    Region,
    RegionsLost,
    Release,
    Retire,
    SeamLost,
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

WAKE_S = 1.0  # at the latest, though nothing has ended
STALLED_WAKES = 15  # with no Replica at work: then they may be in the way of those who read


class Driver:
    """Runs one Plan to its end.

    Parameters
    ----------
    plan: what to do.
    schedule: decides the order.
    pool: Replicas; the Driver starts those that there is work for, replaces those that die,
        and ends those that are idle.
    volumes: opens a Volume by id.
    target: where a Volume's labels go.
    head: what is read out of finished sums.
    on_outcome: called once a Volume, as soon as its outcome is known.
    listen: hears what happens.
    workforce: carries out what is started: Ray's tasks and actors.
    control: says what is wanted of the Job; asked about once a second.
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
        workforce: Workforce | None = None,
        control: Control | None = None,
    ) -> None:
        self._plan, self._schedule, self._pool = plan, schedule, pool
        self._volumes, self._find_target, self._on_outcome = volumes, target, on_outcome
        self._targets: dict[str, Target] = {}
        self._head = head
        self._listen = listen
        self._workforce = workforce or RayWorkforce()
        self._control = control or Control()
        self._pending: dict[Ref, Callable[[Ref], Iterable[Event]]] = {}
        self._inputs: dict[StepKey, Reading] = {}
        self._held = HeldCells()
        self._began: dict[str, float] = {}
        self._worked: dict[str, Workers] = {}
        self._stalled_wakes = 0
        self._short: set[str] = set()
        self._repeated: set[str] = set()  # Replicas may still hold slabs of what ran again
        self._keeper = ReplicaKeeper(pool, self._workforce, listen, stitches=plan.has_seams)

    def run(self) -> None:
        """Until every Volume has its outcome. Raises ReplicaError where no Replica can start."""
        first = self._schedule.start(num_replicas=self._pool.size.at_once)
        self._expect(self._keeper.begin(self._schedule.wanted_replicas))
        self._carry_out(first)
        while not self._schedule.is_finished:
            for event in self._next_events():
                self._carry_out(self._schedule.handle(event))
            self._obey()
            most = self._control.max_replicas
            self._expect(self._keeper.match(self._schedule.wanted_replicas, most=most))
            self._tell_queue()
        self._settle()

    def _obey(self) -> None:
        """Do what is wanted of the Job by now; little more than a look where that is to run."""
        match self._control.wanted:
            case "pause":
                self._carry_out(self._schedule.drain())
            case "cancel":
                self._carry_out(self._schedule.give_up("the Job was cancelled"))
        self._carry_out(self._schedule.limit_replicas(self._control.max_replicas))

    def _settle(self) -> None:
        """Wait for what is still written of Volumes given up: nothing may come late, and last."""
        self._workforce.wait_for_all(
            [
                ref
                for ref, then in self._pending.items()
                if isinstance(then, partial) and then.func == self._was_written
            ]
        )

    # ---- events ---------------------------------------------------------------------------

    def _next_events(self) -> Iterable[Event]:
        """The events of whatever ends next; none where nothing does for a while."""
        done = self._workforce.wait(list(self._pending), timeout_s=WAKE_S)
        for ref in done:
            yield from self._pending.pop(ref)(ref)
        is_stalled = not done and not self._schedule.busy_replicas
        self._stalled_wakes = self._stalled_wakes + 1 if is_stalled else 0
        if not done:
            self._keeper.tell_starvation()
        if self._stalled_wakes >= STALLED_WAKES:
            self._stalled_wakes = 0
            yield from self._keeper.make_room()

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
                case Write():
                    self._write(instruction)
                case Publish(volume_ids):
                    self._publish(volume_ids)
                case Close():
                    self._close(instruction)
                case Retire(replica):
                    self._keeper.retire(replica)

    def _tell_queue(self) -> None:
        busy = self._schedule.busy_replicas
        idle = self._schedule.num_replicas - busy
        self._listen(events.QueueChanged(self._schedule.in_flight, busy, idle))

    # ---- Replicas -------------------------------------------------------------------------

    def _expect(self, starting: Iterable[tuple[str, Ref]]) -> None:
        for name, ref in starting:
            self._pending[ref] = partial(self._keeper.was_started, name)

    def _replica_died(self, call: Predict, error: RayError) -> Iterable[Event]:
        """The first of the calls that were in flight tells."""
        death, what_follows = self._keeper.died(call.replica, error)
        if death.is_short:
            self._short.update(key.volume_id for key in call.step)
        yield from what_follows

    # ---- reading --------------------------------------------------------------------------

    def _read(self, order: Read) -> None:
        started, boxes = perf_counter(), []
        for key in order.step:
            self._began.setdefault(key.volume_id, started)
            plan = self._plan.volumes[key.volume_id]
            boxes.append(plan.layout.read_box(plan.block(key), rebuild=order.rebuild))
        work = [
            (self._volumes(key.volume_id), box) for key, box in zip(order.step, boxes, strict=True)
        ]
        pieces = dict(zip(order.step, self._workforce.read(work), strict=True))
        self._inputs[order.key] = reading = Reading.of(pieces, started)
        for ref in reading.left:
            self._pending[ref] = partial(self._was_read, order.key, reading)

    def _was_read(self, key: StepKey, reading: Reading, ref: Ref) -> Iterable[Event]:
        """A piece is there, or failed: that is found out where the voxels go, not here."""
        reading.left.remove(ref)
        if reading.left or self._inputs.get(key) is not reading:
            return  # or it was let go, and perhaps begun anew
        num_bytes = sum(
            piece.box.num_voxels * np.dtype(self._plan.volumes[block.volume_id].info.dtype).itemsize
            for block, pieces in reading.pieces.items()
            for piece in pieces
        )
        self._listen(events.StageTimed("read", perf_counter() - reading.started, num_bytes))
        yield WasRead(key)

    # ---- predicting -----------------------------------------------------------------------

    def _predict(self, call: Predict) -> None:
        orders = [self._order(key, rebuild=call.rebuild) for key in call.step]
        inputs = [self._inputs[call.key].pieces[key] for key in call.step]
        actor = self._pool.actor(call.replica)
        report, cells = self._workforce.predict(actor, orders, inputs)
        self._pending[report] = partial(self._was_predicted, call, orders, cells)

    def _order(self, key: BlockKey, *, rebuild: bool) -> BlockOrder:
        plan = self._plan.volumes[key.volume_id]
        return BlockOrder(
            key.volume_id, plan.layout, plan.block(key), plan.info.statistics, rebuild
        )

    def _was_predicted(
        self, call: Predict, orders: list[BlockOrder], cells: list[ArrayRef], ref: Ref
    ) -> Iterable[Event]:
        try:
            report = cast("ReplicaReport", self._workforce.result(ref))
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
            workers = self._worked.setdefault(key.volume_id, Workers())
            workers.note(call.replica, report)
        yield WasPredicted(call.key, call.replica, failed)

    def _keep_cells(
        self, orders: list[BlockOrder], arrays: list[ArrayRef], failed: Mapping[BlockKey, str]
    ) -> None:
        remaining = iter(arrays)
        for order in orders:
            key = BlockKey(order.volume_id, order.block.sweep, order.block.number)
            for cell in order.layout.cells(order.block):
                array = next(remaining)
                if key in failed or self._schedule.is_closed(key.volume_id):
                    continue
                if cell.is_seam:
                    self._held.keep_sums(order.volume_id, cell.box, key.sweep, array)
                else:
                    self._keep_labels(order.volume_id, cell.box, array)

    def _keep_labels(self, volume_id: str, box: Box, array: ArrayRef) -> None:
        shard = self._plan.volumes[volume_id].info.shard_zyx
        num_regions = sum(1 for _ in box.split(shard))
        self._held.keep_labels(volume_id, box, array, num_regions=num_regions)

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
                peak_device_bytes=report.peak_device_bytes,
            )
        )

    # ---- stitching, writing, publishing ---------------------------------------------------

    def _stitch(self, volume_id: str, cell: Cell) -> None:
        sums = self._held.take_sums(volume_id, cell)
        done, labels = self._workforce.stitch(self._head, sums)
        self._pending[done] = partial(self._was_stitched, volume_id, cell, labels)

    def _was_stitched(
        self, volume_id: str, cell: Cell, labels: ArrayRef, ref: Ref
    ) -> Iterable[Event]:
        done = self._result(ref, [volume_id])
        if isinstance(done, str):
            self._repeated.add(volume_id)
            yield SeamLost(volume_id, cell, done)
            return
        self._listen(events.StageTimed("stitch", done.seconds, done.num_bytes))
        if not self._schedule.is_closed(volume_id):
            self._keep_labels(volume_id, cell.box, labels)
        for reason in done.failures.values():
            yield VolumeFailed(volume_id, reason)
        yield WasStitched(volume_id, cell)

    def _write(self, order: Write) -> None:
        work = [
            (
                self._target(region.volume_id).written,
                region.box,
                [(box, self._held.labels(region.volume_id, box)) for box in region.cells],
            )
            for region in order.regions
        ]
        shown = tuple(one for one in order.whole if not self._target(one).steps)
        ref = self._workforce.write(work, self._publications(shown))
        self._pending[ref] = partial(self._was_written, order.regions, shown)

    def _was_written(
        self, regions: tuple[Region, ...], shown: tuple[str, ...], ref: Ref
    ) -> Iterable[Event]:
        done = self._result(ref, [region.volume_id for region in regions])
        if isinstance(done, str):
            self._repeated.update(region.volume_id for region in regions)
            yield RegionsLost(regions, done)
            return
        voxels = sum(region.box.num_voxels for region in regions)
        self._listen(events.StageTimed("write", done.seconds, done.num_bytes, num_voxels=voxels))
        if shown:
            self._listen(events.StageTimed("publish", done.publish_s))
        for region in regions:
            for box in region.cells:
                self._held.let_go(region.volume_id, box)
        for volume_id, reason in done.failures.items():
            yield VolumeFailed(volume_id, reason)
        yield WasWritten(regions, tuple(one for one in shown if one not in done.failures))

    def _target(self, volume_id: str) -> Target:
        """Where a Volume's labels go; worked out once, and kept until it has its outcome."""
        if volume_id not in self._targets:
            self._targets[volume_id] = self._find_target(volume_id)
        return self._targets[volume_id]

    def _publish(self, volume_ids: tuple[str, ...]) -> None:
        targets = [self._target(volume_id) for volume_id in volume_ids]
        if any(target.steps for target in targets):
            ref = self._workforce.postprocess([(one.labels, one.steps) for one in targets])
            self._pending[ref] = partial(self._was_postprocessed, volume_ids)
        else:
            self._show(volume_ids, volume_ids)

    def _was_postprocessed(self, volume_ids: tuple[str, ...], ref: Ref) -> Iterable[Event]:
        done = self._told(ref, volume_ids)
        self._listen(events.StageTimed("postprocess", done.seconds, done.num_bytes))
        for volume_id, reason in done.failures.items():
            yield VolumeFailed(volume_id, reason)
        self._show(tuple(one for one in volume_ids if one not in done.failures), volume_ids)

    def _show(self, volume_ids: tuple[str, ...], asked: tuple[str, ...]) -> None:
        """Publish `volume_ids`; all that the Schedule asked for are then through."""
        ref = self._workforce.publish(self._publications(volume_ids))
        self._pending[ref] = partial(self._was_published, asked)

    def _publications(self, volume_ids: Iterable[str]) -> PublishWork:
        return [(one.labels, one.provenance) for one in map(self._target, volume_ids)]

    def _was_published(self, volume_ids: tuple[str, ...], ref: Ref) -> Iterable[Event]:
        done = self._told(ref, volume_ids)
        self._listen(events.StageTimed("publish", done.publish_s))
        for volume_id, reason in done.failures.items():
            yield VolumeFailed(volume_id, reason)
        yield WasPublished(volume_ids)

    def _result(self, ref: Ref, volume_ids: Iterable[str]) -> Done | str:
        """What a task returned, or why what it was to work on is gone.

        A task that Ray gave up on for another reason fails its Volumes.
        """
        try:
            return cast("Done", self._workforce.result(ref))
        except RayError as error:
            if is_lost(error):
                return reason_of(error)
            return Done(0.0, 0, dict.fromkeys(volume_ids, reason_of(error)))

    def _told(self, ref: Ref, volume_ids: Iterable[str]) -> Done:
        """The same of a task that works on what is stored: nothing of it can be gone."""
        done = self._result(ref, volume_ids)
        return Done(0.0, 0, dict.fromkeys(volume_ids, done)) if isinstance(done, str) else done

    # ---- the end of a Volume --------------------------------------------------------------

    def _close(self, close: Close) -> None:
        self._held.drop(close.volume_id)
        self._targets.pop(close.volume_id, None)
        if close.outcome != "done" or close.volume_id in self._repeated:
            self._pool.forget(close.volume_id)
        self._repeated.discard(close.volume_id)
        began = self._began.pop(close.volume_id, perf_counter())
        workers = self._worked.pop(close.volume_id, Workers())
        seconds = perf_counter() - began
        is_short = close.outcome == "quarantined" and close.volume_id in self._short
        self._on_outcome(
            Outcome(
                close.volume_id,
                close.outcome,
                close.reason,
                seconds,
                tuple(workers.replicas),
                is_short,
                nodes=tuple(workers.nodes),
                peak_bytes=workers.peak_bytes,
            )
        )
