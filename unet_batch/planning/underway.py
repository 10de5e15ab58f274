"""Underway: the Chains and Volumes that have begun, and which of them wait for what.

    to be read ──> read, free for any Replica ──> bound to the Replica that holds the slab
        ^                                                 │
        └─────────────── next Step of the Chain ──────────┘

Each question that the Schedule asks at every event (what to read next, what a Replica shall
do next, how much is held) is answered without walking over all Chains.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from unet_batch.planning.landing import Landing
from unet_batch.planning.messages import StepKey
from unet_batch.planning.plan import BlockKey, Chain

READ_AHEAD = 2  # Steps of a Chain that are read before the Replica asks for them


@dataclass(slots=True)
class ChainState:
    """A Chain under way: which Steps are being read, read, being predicted, done.

    `is_single` where it is one Volume of a pack that was lost together.
    """

    steps: Chain
    replica: str | None = None
    next_read: int = 0
    next_predict: int = 0
    done: int = 0
    reading: set[int] = field(default_factory=set)
    read: set[int] = field(default_factory=set)
    rebuild: bool = False  # whether the Step at `done` must rebuild a lost slab
    attempts: Counter[int] = field(default_factory=Counter)
    is_single: bool = False

    @property
    def is_suspect(self) -> bool:
        """Whether its next Step may be what killed a Replica, and is to be predicted alone."""
        return self.is_single or self.attempts[self.done] > 0

    @property
    def is_over(self) -> bool:
        """Whether every Step is done."""
        return self.done >= len(self.steps)

    @property
    def num_held(self) -> int:
        """Steps whose voxels are held: being read, waiting, or being predicted."""
        return len(self.reading) + len(self.read) + self.next_predict - self.done

    @property
    def wants_reading(self) -> bool:
        """Whether its next Step may be read now."""
        ahead = len(self.reading) + len(self.read)
        return self.next_read < len(self.steps) and ahead < READ_AHEAD

    @property
    def wants_predicting(self) -> bool:
        """Whether its next Step has been read."""
        return self.next_predict in self.read

    def must_rebuild(self, number: int) -> bool:
        """Whether Step `number` predicts the tiles under a lost slab as well."""
        return self.rebuild and number == self.done

    def rewind(self) -> list[int]:
        """Back to the first Step that did not return; the Steps that must be read again.

        The slab is lost. A Chain that has landed nothing holds what it needs still; in others
        the first Step needs the voxels under the slab too.
        """
        self.replica = None
        if self.done == 0:
            self.read.update(range(self.next_predict))
            self.next_predict = 0
            return []
        again = list(range(self.done, self.next_read))
        self.next_read = self.next_predict = self.done
        self.rebuild = True
        self.reading.clear()
        self.read.clear()
        return again


@dataclass(slots=True)
class VolumeUnderWay:
    """A Volume under way.

    `chains` are its Chains, with the Sweep that each walks; `again` the Blocks that must run
    again, of which those that `wait` have not begun; `losses` says how often one was lost.
    """

    landing: Landing
    chains: dict[int, int] = field(default_factory=dict)
    again: set[BlockKey] = field(default_factory=set)
    wait: set[BlockKey] = field(default_factory=set)
    losses: Counter[BlockKey] = field(default_factory=Counter)

    def take_repeat(self, sweep: int) -> Chain:
        """The first run of Blocks of a Sweep that wait; none while the Sweep is walked.

        A Replica holds one slab of a Sweep, which two Chains would spoil for each other.
        """
        if sweep in self.chains.values():
            return ()
        waiting = sorted(key for key in self.wait if key.sweep == sweep)
        run = [key for k, key in enumerate(waiting) if key.number == waiting[0].number + k]
        self.wait.difference_update(run)
        return tuple((key,) for key in run)


_FREE, _SUSPECT = "", "?"  # queues beside those of Replicas: for any, and for any that is idle


class _Place(NamedTuple):
    """Where a Chain was sorted last, and what of it was counted; `queue` where it is ready."""

    replica: str | None = None
    queue: str | None = None
    num_held: int = 0
    num_reading: int = 0
    num_read: int = 0


class ChainsUnderWay:
    """The Chains that have begun, by number. `note` what changed, and it is found again.

    `num_held` counts Steps whose voxels are held; of them `num_reading` are being read, and
    `num_read` wait for a Replica.
    """

    def __init__(self) -> None:
        self.num_held = self.num_reading = self.num_read = 0
        self._chains: dict[int, ChainState] = {}
        self._places: dict[int, _Place] = {}
        self._num_begun = 0
        self._readable: set[int] = set()
        self._bound: dict[str, set[int]] = {}
        self._ready: dict[str, set[int]] = {}  # by queue

    def __len__(self) -> int:
        return len(self._chains)

    def __getitem__(self, number: int) -> ChainState:
        return self._chains[number]

    def get(self, number: int) -> ChainState | None:
        """The Chain of this number, None where it is over."""
        return self._chains.get(number)

    def begin(self, steps: Chain, *, rebuild: bool = False, is_single: bool = False) -> int:
        """Begin a Chain; its number. With `rebuild` its first Step has a slab to rebuild."""
        number = self._num_begun
        self._num_begun += 1
        self._chains[number] = ChainState(steps, rebuild=rebuild, is_single=is_single)
        self.note(number)
        return number

    def end(self, number: int) -> ChainState:
        """Forget a Chain."""
        self._sort(number, _Place())
        self._readable.discard(number)
        del self._places[number]
        return self._chains.pop(number)

    def note(self, number: int) -> None:
        """A Chain has changed: sort it anew."""
        chain = self._chains[number]
        reading, read = len(chain.reading), len(chain.read)
        queue = _queue_of(chain) if chain.wants_predicting else None
        self._sort(number, _Place(chain.replica, queue, chain.num_held, reading, read))
        if chain.wants_reading:
            self._readable.add(number)
        else:
            self._readable.discard(number)

    def to_read(self, *, below: int) -> int | None:
        """The oldest Chain that holds fewer than `below` Steps and whose next may be read."""
        return min(
            (number for number in self._readable if self._places[number].num_held < below),
            default=None,
        )

    def bound_to(self, replica: str) -> list[int]:
        """The Chains that a Replica holds slabs of, oldest first."""
        return sorted(self._bound.get(replica, ()))

    @property
    def has_ready(self) -> bool:
        """Whether any Chain waits for a Replica to predict its next Step."""
        return bool(self._ready)

    @property
    def num_suspects(self) -> int:
        """Chains that wait for a Replica of their own."""
        return len(self._ready.get(_SUSPECT, ()))

    def is_suspect(self, number: int) -> bool:
        """Whether what is predicted of a Chain must be alone at its Replica."""
        return number in self._chains and self._chains[number].is_suspect

    def step_for(self, replica: str, *, is_idle: bool) -> StepKey | None:
        """What a Replica shall predict next: a suspect, of its own Chains, or of one that is free.

        Suspects are for those that have nothing else to do: where a Replica dies on one, it was
        that one, and no call whose answer was lost on the way.
        """
        queues = (_SUSPECT, replica, _FREE) if is_idle else (replica, _FREE)
        numbers = next((self._ready[one] for one in queues if one in self._ready), None)
        if numbers is None:
            return None
        number = min(numbers)
        return StepKey(number, self._chains[number].next_predict)

    @property
    def num_unbound(self) -> int:
        """Chains that no Replica has begun, or that lost theirs."""
        return len(self._chains) - sum(map(len, self._bound.values()))

    def _sort(self, number: int, now: _Place) -> None:
        before = self._places.get(number, _Place())
        self._places[number] = now
        self.num_held += now.num_held - before.num_held
        self.num_reading += now.num_reading - before.num_reading
        self.num_read += now.num_read - before.num_read
        if now.replica != before.replica:
            if before.replica is not None:
                _take(self._bound, before.replica, number)
            if now.replica is not None:
                self._bound.setdefault(now.replica, set()).add(number)
        if now.queue != before.queue:
            if before.queue is not None:
                _take(self._ready, before.queue, number)
            if now.queue is not None:
                self._ready.setdefault(now.queue, set()).add(number)


def _queue_of(chain: ChainState) -> str:
    return chain.replica or (_SUSPECT if chain.is_suspect else _FREE)


def _take(sets: dict[str, set[int]], key: str, number: int) -> None:
    """Remove a number from one of `sets`, which keep no empty one."""
    numbers = sets[key]
    numbers.remove(number)
    if not numbers:
        del sets[key]
