"""Schedule: what to do next, as a pure state machine. Events go in, Instructions come out.

    Read ─> Predict ─┬─> (labels) ──────────────┬─> Write ─> Publish ─> Close
                     └─> (sums) ──> Stitch ─────┘

It touches no network, clock or array. The driver carries the Instructions out and reports
back. Work in flight is bounded by a window of Steps for each Replica and by bytes; a Chain
stays with one Replica, which holds its slab; a lost Replica's Steps are handed out again,
the first of each Chain with `rebuild`. Events about Volumes that were given up are ignored,
so late and double returns do no harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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
from unet_batch.planning.plan import BlockKey, Chain, Step, VolumePlan
from unet_batch.tiling.box import Box

PIPELINE_DEPTH = 2  # calls a Replica has waiting, so that it never idles between two
READ_AHEAD = 2  # Steps of a Chain that are read before the Replica asks for them


@dataclass(slots=True)
class _Chain:
    """A Chain under way: which Steps are being read, read, being predicted, done."""

    steps: Chain
    replica: str | None = None
    next_read: int = 0
    next_predict: int = 0
    done: int = 0
    reading: set[int] = field(default_factory=set)
    read: set[int] = field(default_factory=set)
    rebuild: bool = False  # whether the Step at `done` must rebuild a lost slab
    attempts: Counter[int] = field(default_factory=Counter)

    @property
    def is_over(self) -> bool:
        return self.done >= len(self.steps)

    def must_rebuild(self, number: int) -> bool:
        return self.rebuild and number == self.done


@dataclass(slots=True)
class _Volume:
    """What of a Volume has landed: voxels by write region, contributions by Seam."""

    plan: VolumePlan
    missing: dict[Box, int]
    landed: dict[Box, list[Box]] = field(default_factory=dict)
    contributions: Counter[Box] = field(default_factory=Counter)
    unwritten: int = 0


class Schedule:
    """Decides the order of a Job's work.

    Parameters
    ----------
    chains: the Plan's Chains; consumed lazily.
    volumes: the Plan's Volumes, by id.
    window: Steps in flight for each Replica.
    max_attempts: how often a Step may be lost with its Replica before its Volumes are
        quarantined.
    max_unwritten_voxels: labels that may wait to be stored before no new Chain is begun.
    """

    def __init__(
        self,
        chains: Iterator[Chain],
        volumes: Mapping[str, VolumePlan],
        *,
        window: int,
        max_attempts: int,
        max_unwritten_voxels: int = 2**30,
    ) -> None:
        self._upcoming, self._plans = chains, volumes
        self._window, self._max_attempts = window, max_attempts
        self._is_drained = False
        self._num_chains = 0
        self._chains: dict[int, _Chain] = {}
        self._volumes: dict[str, _Volume] = {}
        self._closed: set[str] = set()
        self._replicas: dict[str, list[StepKey]] = {}
        self._max_unwritten_voxels = max_unwritten_voxels
        self._stitching = self._writing = self._publishing = self._unwritten_voxels = 0

    @property
    def is_finished(self) -> bool:
        """Whether every Volume of every Chain has been closed."""
        return self._is_drained and not self._chains and not self._volumes

    @property
    def in_flight(self) -> dict[str, int]:
        """Pieces of work by stage: Steps that are read, wait or are predicted; the rest."""
        chains = self._chains.values()
        return {
            "read": sum(len(chain.reading) for chain in chains),
            "wait": sum(len(chain.read) for chain in chains),
            "predict": sum(map(len, self._replicas.values())),
            "stitch": self._stitching,
            "write": self._writing,
            "publish": self._publishing,
        }

    @property
    def busy_replicas(self) -> int:
        """Replicas that have work."""
        return sum(1 for calls in self._replicas.values() if calls)

    @property
    def num_replicas(self) -> int:
        """Replicas that are ready."""
        return len(self._replicas)

    def start(self, *, num_replicas: int) -> list[Instruction]:
        """The first reads: enough for `num_replicas` that are still loading."""
        return list(self._fill(num_replicas * self._window))

    def handle(self, event: Event) -> list[Instruction]:
        """What follows from `event`."""
        out = list(self._react(event))
        out += self._assign()
        out += self._fill(max(1, len(self._replicas)) * self._window)
        out += self._assign()
        return out

    def _react(self, event: Event) -> Iterator[Instruction]:
        match event:
            case ReplicaReady(replica):
                self._replicas.setdefault(replica, [])
            case ReplicaGone(replica, reason):
                yield from self._lose(replica, reason)
            case WasRead(key):
                self._note_read(key)
            case WasPredicted():
                yield from self._land_step(event)
            case WasStitched(volume_id, cell):
                self._stitching -= 1
                yield from self._write(self._land(volume_id, cell.box))
            case WasWritten(regions):
                self._writing -= len(regions)
                yield from self._publish(self._note_written(regions))
            case WasPublished(volume_ids):
                self._publishing -= len(volume_ids)
                for volume_id in volume_ids:
                    yield from self._close(volume_id, Close(volume_id, "done"))
            case VolumeFailed(volume_id, reason):
                yield from self._close(volume_id, Close(volume_id, "quarantined", reason))

    # ---- reading and predicting -----------------------------------------------------------

    def _fill(self, room: int) -> Iterator[Instruction]:
        """Read on in the Chains under way, then begin new ones, while the window has room."""
        while sum(map(_steps_held, self._chains.values())) < room:
            number = self._chain_to_read()
            if number is None:
                return
            chain = self._chains[number]
            step = chain.next_read
            chain.next_read += 1
            chain.reading.add(step)
            key = StepKey(number, step)
            yield Read(key, self._living(chain.steps[step]), chain.must_rebuild(step))

    def _chain_to_read(self) -> int | None:
        for number, chain in self._chains.items():
            ahead = len(chain.reading) + len(chain.read)
            if chain.next_read < len(chain.steps) and ahead < READ_AHEAD:
                return number
        return self._begin_chain()

    def _begin_chain(self) -> int | None:
        if self._writing and self._unwritten_voxels > self._max_unwritten_voxels:
            return None  # the stores are behind: let them catch up before more is begun
        for steps in self._upcoming:
            number = self._num_chains
            self._num_chains += 1
            for volume_id in {key.volume_id for step in steps for key in step}:
                self._open(volume_id)
            if any(self._living(step) for step in steps):
                self._chains[number] = _Chain(steps)
                return number
        self._is_drained = True
        return None

    def _note_read(self, key: StepKey) -> None:
        chain = self._chains.get(key.chain)
        if chain and key.number in chain.reading:
            chain.reading.remove(key.number)
            chain.read.add(key.number)

    def _assign(self) -> Iterator[Instruction]:
        """Give every Replica with room the next Step that was read: its own Chains first."""
        for replica, calls in self._replicas.items():
            while len(calls) < PIPELINE_DEPTH:
                key = self._step_for(replica)
                if key is None:
                    break
                chain = self._chains[key.chain]
                chain.replica = replica
                chain.read.remove(key.number)
                chain.next_predict += 1
                calls.append(key)
                step = self._living(chain.steps[key.number])
                yield Predict(key, step, replica, chain.must_rebuild(key.number))

    def _step_for(self, replica: str) -> StepKey | None:
        free: StepKey | None = None
        for number, chain in self._chains.items():
            if chain.next_predict not in chain.read:
                continue
            key = StepKey(number, chain.next_predict)
            if chain.replica == replica:
                return key
            if chain.replica is None and free is None:
                free = key
        return free

    def _lose(self, replica: str, reason: str) -> Iterator[Instruction]:
        lost = self._replicas.pop(replica, [])
        for number, chain in list(self._chains.items()):
            if chain.replica != replica:
                continue
            chain.replica = None
            chain.attempts.update(key.number for key in lost if key.chain == number)
            yield from self._rewind(number, chain)
            if chain.attempts[chain.done] >= self._max_attempts:
                for key in self._living(chain.steps[chain.done]):
                    why = f"{chain.attempts[chain.done]} Replicas died on it; the last: {reason}"
                    yield from self._close(key.volume_id, Close(key.volume_id, "quarantined", why))

    def _rewind(self, number: int, chain: _Chain) -> Iterator[Instruction]:
        """Back to the first Step that did not return. Its slab is lost, unless it begins one."""
        again = range(chain.done, chain.next_predict)
        chain.next_predict = chain.done
        chain.rebuild = chain.done > 0
        if not chain.rebuild:
            chain.read.update(again)
            return
        for step in range(chain.done, chain.next_read):
            yield Release(StepKey(number, step))
        chain.next_read = chain.done
        chain.reading.clear()
        chain.read.clear()

    # ---- landing, writing, publishing -----------------------------------------------------

    def _land_step(self, event: WasPredicted) -> Iterator[Instruction]:
        calls = self._replicas.get(event.replica, [])
        if event.key not in calls:
            return
        calls.remove(event.key)
        chain = self._chains.get(event.key.chain)
        yield Release(event.key)
        if chain is None:
            return
        chain.done += 1
        chain.rebuild = False
        ready: list[Region] = []
        for key in self._living(chain.steps[event.key.number]):
            if key in event.failures:
                reason = event.failures[key]
                yield from self._close(key.volume_id, Close(key.volume_id, "quarantined", reason))
                continue
            yield from self._land_block(key, ready)
        if chain.is_over:
            self._chains.pop(event.key.chain, None)
        yield from self._write(ready)

    def _land_block(self, key: BlockKey, ready: list[Region]) -> Iterator[Instruction]:
        volume = self._volumes[key.volume_id]
        for cell in volume.plan.layout.cells(volume.plan.block(key)):
            if not cell.is_seam:
                ready += self._land(key.volume_id, cell.box)
                continue
            volume.contributions[cell.box] += 1
            if volume.contributions[cell.box] == len(cell.sweeps):
                self._stitching += 1
                yield Stitch(key.volume_id, cell)

    def _land(self, volume_id: str, box: Box) -> list[Region]:
        """Note the labels of `box`; the write regions that are whole with them."""
        volume = self._volumes.get(volume_id)
        if volume is None:
            return []
        ready = []
        whole = Box.from_shape(volume.plan.info.shape_zyx)
        for part in box.split(volume.plan.info.shard_zyx):
            region = _region_of(part, volume.plan.info.shard_zyx, whole)
            volume.landed.setdefault(region, []).append(box)
            volume.missing[region] -= part.num_voxels
            if volume.missing[region] == 0:
                ready.append(Region(volume_id, region, tuple(volume.landed.pop(region))))
        return ready

    def _write(self, ready: list[Region]) -> Iterator[Instruction]:
        if ready:
            self._writing += len(ready)
            self._unwritten_voxels += sum(region.box.num_voxels for region in ready)
            yield Write(tuple(ready))

    def _note_written(self, regions: tuple[Region, ...]) -> list[str]:
        whole = []
        for volume_id, box, _ in regions:
            self._unwritten_voxels -= box.num_voxels
            volume = self._volumes.get(volume_id)
            if volume is None:
                continue
            volume.unwritten -= 1
            if volume.unwritten == 0:
                whole.append(volume_id)
        return whole

    def _publish(self, volume_ids: list[str]) -> Iterator[Instruction]:
        if volume_ids:
            self._publishing += len(volume_ids)
            yield Publish(tuple(volume_ids))

    # ---- Volumes --------------------------------------------------------------------------

    def _open(self, volume_id: str) -> None:
        if volume_id in self._volumes or volume_id in self._closed:
            return
        plan = self._plans[volume_id]
        missing = {region: region.num_voxels for region in plan.write_regions}
        self._volumes[volume_id] = _Volume(plan, missing, unwritten=len(missing))

    def _living(self, step: Step) -> Step:
        """The Blocks of a Step whose Volumes have not been given up."""
        return tuple(key for key in step if key.volume_id not in self._closed)

    def _close(self, volume_id: str, close: Close) -> Iterator[Instruction]:
        if self._volumes.pop(volume_id, None) is None:
            return
        self._closed.add(volume_id)
        yield close
        for number, chain in list(self._chains.items()):
            if not any(self._living(step) for step in chain.steps):
                del self._chains[number]
                for step in chain.reading | chain.read:
                    yield Release(StepKey(number, step))


def _steps_held(chain: _Chain) -> int:
    """Steps whose voxels are held: being read, waiting, or being predicted."""
    return len(chain.reading) + len(chain.read) + chain.next_predict - chain.done


def _region_of(part: Box, shard: tuple[int, ...], whole: Box) -> Box:
    """The write region that holds `part`."""
    start = tuple(a // n * n for a, n in zip(part.start, shard, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, shard, strict=True))) & whole
