"""Schedule: what to do next, as a pure state machine. Events go in, Instructions come out.

    Read ─> Predict ─┬─> (labels) ──────────────┬─> Write ──> Publish ─┬─> Close
                     └─> (sums) ──> Stitch ─────┘     └─> (published) ──┘

It touches no network, clock or array. The driver carries the Instructions out and reports
back. Work in flight is bounded by a window of Steps for each Replica and by bytes; a Chain
stays with one Replica, which holds its slab; a lost Replica's Steps are handed out again,
the first of each Chain with `rebuild`. What may have killed a Replica is tried again alone, and
small Volumes that were lost together one by one, so that one that kills Replicas takes no
other with it. Results that went with their machine are made again. Events about Volumes that
were given up are ignored, so late and double returns do no harm. Nothing that is done at an
event takes longer in a longer Job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from unet_batch.planning.landing import Landing
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
    ReplicaGone,
    ReplicaReady,
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
from unet_batch.planning.plan import BlockKey, Chain, Step, VolumePlan
from unet_batch.planning.staff import Staff
from unet_batch.planning.underway import ChainState, ChainsUnderWay, VolumeUnderWay
from unet_batch.tiling.box import Box

LEAST_SHARE = 8  # regions that are worth a writer of their own
PIPELINE_DEPTH = 2  # calls a Replica has waiting, so that it never idles between two


class Schedule:
    """Decides the order of a Job's work.

    Parameters
    ----------
    chains: the Plan's Chains; consumed lazily.
    volumes: the Plan's Volumes, by id; each is asked for once, when its first Chain begins.
    window: Steps in flight for each Replica.
    max_attempts: how many Replicas a Block may kill, the last while it was alone there, or how
        often its result may go with a machine, before its Volume is quarantined.
    max_unwritten_voxels: labels that may wait to be stored before no more is read.
    least_replicas: Replicas that are kept although no work will come for them; None: all.
    num_writers: who write beside a Replica; what comes last is shared out among them.
    """

    def __init__(
        self,
        chains: Iterator[Chain],
        volumes: Mapping[str, VolumePlan],
        *,
        window: int,
        max_attempts: int,
        max_unwritten_voxels: int = 2**30,
        least_replicas: int | None = None,
        num_writers: int = 1,
    ) -> None:
        self._upcoming, self._plans = chains, volumes
        self._window, self._max_attempts = window, max_attempts
        self._is_drained = self._is_draining = False
        self._chains = ChainsUnderWay()
        self._volumes: dict[str, VolumeUnderWay] = {}
        self._closed: set[str] = set()
        self._staff = Staff(least_replicas)
        self._max_unwritten_voxels, self._num_writers = max_unwritten_voxels, num_writers
        self._stitching = self._writing = self._publishing = self._unwritten_voxels = 0

    @property
    def is_finished(self) -> bool:
        """Whether every Volume of every Chain has been closed."""
        return self._is_drained and not self._chains and not self._volumes

    @property
    def in_flight(self) -> dict[str, int]:
        """Pieces of work by stage: Steps that are read, wait or are predicted; the rest."""
        return {
            "read": self._chains.num_reading,
            "wait": self._chains.num_read,
            "predict": self._staff.num_calls,
            "stitch": self._stitching,
            "write": self._writing,
            "publish": self._publishing,
        }

    @property
    def busy_replicas(self) -> int:
        """Replicas that have work."""
        return self._staff.num_busy

    @property
    def num_replicas(self) -> int:
        """Replicas that are ready."""
        return len(self._staff)

    @property
    def wanted_replicas(self) -> int | None:
        """Replicas that there is work for; None: as many as can be had."""
        return max(1, len(self._chains)) if self._is_drained else None

    def is_closed(self, volume_id: str) -> bool:
        """Whether a Volume has its outcome; what still comes of it is for nobody."""
        return volume_id in self._closed

    def start(self, *, num_replicas: int) -> list[Instruction]:
        """The first reads: enough for `num_replicas` that are still loading."""
        return list(self._fill(num_replicas * self._window))

    def drain(self) -> list[Instruction]:
        """Begin no Volume from now on; those under way are finished."""
        self._is_draining = True
        return list(self._fill(max(1, len(self._staff)) * self._window))

    def give_up(self, reason: str) -> list[Instruction]:
        """Cancel the Volumes under way, and begin no more."""
        self._is_drained = True
        under_way = list(self._volumes)
        return [
            one
            for volume_id in under_way
            for one in self._close(Close(volume_id, "cancelled", reason))
        ]

    def limit_replicas(self, most: int | None) -> list[Instruction]:
        """Give work to `most` Replicas only; the others end when they have done theirs."""
        self._staff.most = most
        return list(self._retire())

    def handle(self, event: Event) -> list[Instruction]:
        """What follows from `event`."""
        out = list(self._react(event))
        out += self._assign()
        out += self._fill(max(1, len(self._staff)) * self._window)
        out += self._retire()
        return out

    def _react(self, event: Event) -> Iterator[Instruction]:
        match event:
            case ReplicaReady(replica):
                self._staff.join(replica)
            case WasRead(key):
                self._note_read(key)
            case WasPredicted():
                yield from self._land_step(event)
            case WasStitched(volume_id, cell):
                self._stitching -= 1
                if volume := self._volumes.get(volume_id):
                    yield from self._write(volume.landing.land_labels(cell.box))
            case WasWritten(regions, published):
                whole = self._note_written(regions)
                yield from self._finish(published)
                yield from self._publish([one for one in whole if one not in published])
            case WasPublished(volume_ids):
                self._publishing -= len(volume_ids)
                yield from self._finish(volume_ids)
            case _:
                yield from self._react_to_trouble(event)

    def _react_to_trouble(self, event: Event) -> Iterator[Instruction]:
        match event:
            case ReplicaGone(replica, reason):
                yield from self._lose(replica, reason)
            case RegionsLost(regions, reason):
                yield from self._repeat_regions(regions, reason)
            case SeamLost(volume_id, cell, reason):
                self._stitching -= 1
                if volume := self._volumes.get(volume_id):
                    yield from self._repeat(volume, volume.landing.lose_seam(cell), reason)
            case VolumeFailed(volume_id, reason):
                yield from self._close(Close(volume_id, "quarantined", reason))

    # ---- reading and predicting -----------------------------------------------------------

    def _fill(self, room: int) -> Iterator[Instruction]:
        """Read on in the Chains under way, then begin new ones, while the window has room.

        A Chain gets more than a Replica's share of it only where no other can be begun: few
        long ones would leave nothing for the Replicas without one.
        """
        while self._chains.num_held < room and not self._is_behind:
            number = self._chains.to_read(below=self._window)
            if number is None:
                number = self._begin_chain()
            if number is None:
                number = self._chains.to_read(below=room)
            if number is None:
                return
            chain = self._chains[number]
            step = chain.next_read
            chain.next_read += 1
            chain.reading.add(step)
            self._chains.note(number)
            yield Read(
                StepKey(number, step), self._living(chain.steps[step]), chain.must_rebuild(step)
            )

    @property
    def _is_behind(self) -> bool:
        """Whether the stores must catch up before more is read; what is written needs no read."""
        return self._writing > 0 and self._unwritten_voxels > self._max_unwritten_voxels

    def _begin_chain(self) -> int | None:
        for steps in self._upcoming:
            if self._is_draining and not any(self._volumes_of(steps)):
                break
            for volume_id in {key.volume_id for step in steps for key in step}:
                self._open(volume_id)
            if any(self._living(step) for step in steps):
                return self._begin(steps)
        self._is_drained = True
        return None

    def _begin(self, steps: Chain, *, rebuild: bool = False, is_single: bool = False) -> int:
        number = self._chains.begin(steps, rebuild=rebuild, is_single=is_single)
        for key in {key.volume_id: key for step in steps for key in step}.values():
            if key.volume_id in self._volumes:
                self._volumes[key.volume_id].chains[number] = key.sweep
        return number

    def _end(self, number: int) -> ChainState:
        chain = self._chains.end(number)
        for volume in self._volumes_of(chain.steps):
            self._begin_repeat(volume, volume.chains.pop(number))
        return chain

    def _begin_repeat(self, volume: VolumeUnderWay, sweep: int) -> None:
        if steps := volume.take_repeat(sweep):
            self._begin(steps, rebuild=steps[0][0].number > 0)

    def _volumes_of(self, steps: Chain) -> Iterator[VolumeUnderWay]:
        for volume_id in {key.volume_id for step in steps for key in step}:
            if volume_id in self._volumes:
                yield self._volumes[volume_id]

    def _note_read(self, key: StepKey) -> None:
        chain = self._chains.get(key.chain)
        if chain and key.number in chain.reading:
            chain.reading.remove(key.number)
            chain.read.add(key.number)
            self._chains.note(key.chain)

    def _assign(self) -> Iterator[Instruction]:
        """Give Replicas with room what was read: one call each, then one more to wait."""
        for depth in range(1, PIPELINE_DEPTH + 1):
            for replica in self._staff.with_room(depth, self._chains):
                if not self._chains.has_ready:
                    return
                key = self._chains.step_for(replica, is_idle=self._staff.is_idle(replica))
                if key is not None:
                    yield self._hand_out(key, replica)

    def _hand_out(self, key: StepKey, replica: str) -> Predict:
        chain = self._chains[key.chain]
        chain.replica = replica
        chain.read.remove(key.number)
        chain.next_predict += 1
        self._chains.note(key.chain)
        self._staff.ask(replica, key)
        step = self._living(chain.steps[key.number])
        return Predict(key, step, replica, chain.must_rebuild(key.number))

    def _retire(self) -> Iterator[Instruction]:
        yield from map(Retire, self._staff.dismiss(self._chains, is_drained=self._is_drained))

    # ---- what was lost --------------------------------------------------------------------

    def _lose(self, replica: str, reason: str) -> Iterator[Instruction]:
        """Hand the Steps of a lost Replica out again; only one it was at may have killed it.

        That is the first of its calls; or the next, a pack that was begun as the first ended, or
        where an answer was lost: sure is only what was its single call.
        """
        calls = self._staff.leave(replica)
        if calls and (guilty := self._chains.get(calls[0].chain)):  # calls are begun in order
            guilty.attempts[calls[0].number] += 1
        for number in self._chains.bound_to(replica):
            chain = self._chains[number]
            for step in chain.rewind():
                yield Release(StepKey(number, step))
            self._chains.note(number)
            yield from self._judge(number, reason, is_sure=len(calls) == 1)

    def _judge(self, number: int, reason: str, *, is_sure: bool) -> Iterator[Instruction]:
        """What to do with a Chain whose Step was lost: on, one by one, or no further."""
        chain = self._chains[number]
        attempts, step = chain.attempts[chain.done], self._living(chain.steps[chain.done])
        if attempts and len(step) > 1 and len(chain.steps) == 1:
            yield from self._one_by_one(number)
        elif is_sure and attempts >= self._max_attempts:
            for key in step:
                why = f"{attempts} Replicas died on it; the last: {reason}"
                yield from self._close(Close(key.volume_id, "quarantined", why))

    def _one_by_one(self, number: int) -> Iterator[Instruction]:
        """Try small Volumes that were lost together each alone, to find the one that kills."""
        chain = self._end(number)
        for step in chain.reading | chain.read:
            yield Release(StepKey(number, step))
        for key in self._living(chain.steps[0]):
            self._begin(((key,),), is_single=True)

    def _repeat_regions(self, regions: Iterable[Region], reason: str) -> Iterator[Instruction]:
        for region in regions:
            self._writing -= 1
            self._unwritten_voxels -= region.box.num_voxels
            if volume := self._volumes.get(region.volume_id):
                yield from self._repeat(volume, volume.landing.lose_region(region), reason)

    def _repeat(
        self, volume: VolumeUnderWay, blocks: Iterable[BlockKey], reason: str
    ) -> Iterator[Instruction]:
        """Predict Blocks again whose results are gone, unless they are under way."""
        for key in sorted(blocks):
            if key in volume.again:
                continue
            volume.losses[key] += 1
            if volume.losses[key] > self._max_attempts:
                why = f"what was predicted was lost {volume.losses[key]} times; the last: {reason}"
                yield from self._close(Close(key.volume_id, "quarantined", why))
                return
            volume.again.add(key)
            volume.wait.add(key)
        for sweep in sorted({key.sweep for key in volume.wait}):
            self._begin_repeat(volume, sweep)

    # ---- landing, writing, publishing -----------------------------------------------------

    def _land_step(self, event: WasPredicted) -> Iterator[Instruction]:
        if not self._staff.answered(event.replica, event.key):
            return
        chain = self._chains.get(event.key.chain)
        yield Release(event.key)
        if chain is None:
            return
        chain.done += 1
        chain.rebuild = False
        step = self._living(chain.steps[event.key.number])
        if chain.is_over:
            self._end(event.key.chain)
        else:
            self._chains.note(event.key.chain)
        yield from self._land_blocks(step, event.failures)

    def _land_blocks(self, step: Step, failures: Mapping[BlockKey, str]) -> Iterator[Instruction]:
        ready: list[Region] = []
        for key in step:
            if key in failures:
                yield from self._close(Close(key.volume_id, "quarantined", failures[key]))
                continue
            volume = self._volumes[key.volume_id]
            volume.again.discard(key)
            seams, regions = volume.landing.land(key)
            ready += regions
            for cell in seams:
                self._stitching += 1
                yield Stitch(key.volume_id, cell)
        yield from self._write(ready)

    def _write(self, ready: list[Region]) -> Iterator[Instruction]:
        for regions in self._shares(ready):
            self._writing += len(regions)
            self._unwritten_voxels += sum(region.box.num_voxels for region in regions)
            yield Write(tuple(regions), self._whole_with(regions))

    def _shares(self, ready: list[Region]) -> Iterator[list[Region]]:
        """All in one; of the last Steps' regions, for which others wait, one for each writer."""
        has_more = not self._is_drained or self._chains.num_reading or self._chains.num_read
        size = len(ready) if has_more else max(LEAST_SHARE, -(-len(ready) // self._num_writers))
        yield from (ready[k : k + size] for k in range(0, len(ready), max(1, size)))

    def _whole_with(self, ready: Iterable[Region]) -> tuple[str, ...]:
        """The Volumes of which nothing else is left to be written."""
        boxes: dict[str, list[Box]] = {}
        for region in ready:
            boxes.setdefault(region.volume_id, []).append(region.box)
        return tuple(
            volume_id
            for volume_id, regions in boxes.items()
            if self._volumes[volume_id].landing.is_whole_with(regions)
        )

    def _note_written(self, regions: tuple[Region, ...]) -> list[str]:
        self._writing -= len(regions)
        whole = []
        for volume_id, box, _ in regions:
            self._unwritten_voxels -= box.num_voxels
            volume = self._volumes.get(volume_id)
            if volume and volume.landing.note_written(box):
                whole.append(volume_id)
        return whole

    def _publish(self, volume_ids: list[str]) -> Iterator[Instruction]:
        if volume_ids:
            self._publishing += len(volume_ids)
            yield Publish(tuple(volume_ids))

    def _finish(self, volume_ids: Iterable[str]) -> Iterator[Instruction]:
        for volume_id in volume_ids:
            yield from self._close(Close(volume_id, "done"))

    # ---- Volumes --------------------------------------------------------------------------

    def _open(self, volume_id: str) -> None:
        if volume_id not in self._volumes and volume_id not in self._closed:
            self._volumes[volume_id] = VolumeUnderWay(Landing(self._plans[volume_id]))

    def _living(self, step: Step) -> Step:
        """The Blocks of a Step whose Volumes have not been given up."""
        return tuple(key for key in step if key.volume_id not in self._closed)

    def _close(self, close: Close) -> Iterator[Instruction]:
        """End a Volume, and the Chains in which nothing else is left."""
        volume = self._volumes.pop(close.volume_id, None)
        if volume is None:
            return
        self._closed.add(close.volume_id)
        yield close
        for number in sorted(volume.chains):
            chain = self._chains[number]
            if not any(self._living(step) for step in chain.steps):
                self._end(number)
                for step in chain.reading | chain.read:
                    yield Release(StepKey(number, step))
