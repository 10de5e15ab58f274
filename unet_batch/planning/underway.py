"""Underway: the Chains that have begun, and which of them wait for what.

    to be read ──> read, free for any Replica ──> bound to the Replica that holds the slab
        ^                                                 │
        └─────────────── next Step of the Chain ──────────┘

Each question that the Schedule asks at every event (what to read next, what a Replica shall
do next, how much is held) is answered without walking over all Chains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from unet_batch.planning.messages import StepKey
from unet_batch.planning.plan import Chain

READ_AHEAD = 2  # Steps of a Chain that are read before the Replica asks for them


@dataclass(slots=True)
class ChainState:
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


class ChainsUnderWay:
    """The Chains that have begun, by number. `note` what changed, and it is found again."""

    def __init__(self) -> None:
        self._chains: dict[int, ChainState] = {}
        self._num_begun = 0
        self._readable: set[int] = set()
        self._free: set[int] = set()
        self._bound: dict[str, set[int]] = {}
        self._places: dict[int, tuple[str | None, int]] = {}
        self.num_held = 0

    def __len__(self) -> int:
        return len(self._chains)

    def __iter__(self) -> Iterator[ChainState]:
        return iter(self._chains.values())

    def __getitem__(self, number: int) -> ChainState:
        return self._chains[number]

    def get(self, number: int) -> ChainState | None:
        """The Chain of this number, None where it is over."""
        return self._chains.get(number)

    def begin(self, steps: Chain, *, rebuild: bool = False) -> int:
        """Begin a Chain; its number. With `rebuild` its first Step has a slab to rebuild."""
        number = self._num_begun
        self._num_begun += 1
        self._chains[number] = ChainState(steps, rebuild=rebuild)
        self.note(number)
        return number

    def end(self, number: int) -> ChainState:
        """Forget a Chain."""
        chain = self._chains.pop(number)
        replica, held = self._places.pop(number)
        self.num_held -= held
        self._unbind(replica, number)
        self._readable.discard(number)
        self._free.discard(number)
        return chain

    def note(self, number: int) -> None:
        """A Chain has changed: sort it anew."""
        chain = self._chains[number]
        was_bound, was_held = self._places.get(number, (None, 0))
        if was_bound != chain.replica:
            self._unbind(was_bound, number)
            if chain.replica is not None:
                self._bound.setdefault(chain.replica, set()).add(number)
        self._places[number] = (chain.replica, chain.num_held)
        self.num_held += chain.num_held - was_held
        _put(self._readable, number, is_in=chain.wants_reading)
        _put(self._free, number, is_in=chain.replica is None and chain.wants_predicting)

    def to_read(self) -> int | None:
        """The oldest Chain whose next Step may be read."""
        return min(self._readable, default=None)

    def bound_to(self, replica: str) -> list[int]:
        """The Chains that a Replica holds slabs of, oldest first."""
        return sorted(self._bound.get(replica, ()))

    def step_for(self, replica: str) -> StepKey | None:
        """What a Replica shall predict next: of its own Chains, else of one that is free."""
        for number in self.bound_to(replica):
            if self._chains[number].wants_predicting:
                return StepKey(number, self._chains[number].next_predict)
        number_of_free = min(self._free, default=None)
        if number_of_free is None:
            return None
        return StepKey(number_of_free, self._chains[number_of_free].next_predict)

    @property
    def num_unbound(self) -> int:
        """Chains that no Replica has begun, or that lost theirs."""
        return len(self._chains) - sum(map(len, self._bound.values()))

    def _unbind(self, replica: str | None, number: int) -> None:
        if replica is None:
            return
        numbers = self._bound[replica]
        numbers.discard(number)
        if not numbers:
            del self._bound[replica]


def _put(numbers: set[int], number: int, *, is_in: bool) -> None:
    if is_in:
        numbers.add(number)
    else:
        numbers.discard(number)
