"""Staff: the Replicas that are ready, what each has been asked for, and who may go."""

from __future__ import annotations

from collections.abc import Iterator

from unet_batch.planning.messages import StepKey
from unet_batch.planning.underway import ChainsUnderWay


class Staff:
    """Replicas by name, in the order they came, each with its calls in the order it does them.

    `least` are kept although no work will come for them (None: all), `most` are given new
    Chains (None: all).
    """

    def __init__(self, least: int | None) -> None:
        self.most: int | None = None
        self._least = least
        self._calls: dict[str, list[StepKey]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def num_busy(self) -> int:
        """Replicas that have work."""
        return sum(1 for calls in self._calls.values() if calls)

    @property
    def num_calls(self) -> int:
        """Steps that are predicted, or wait for it at a Replica."""
        return sum(map(len, self._calls.values()))

    def join(self, replica: str) -> None:
        """A Replica is ready."""
        self._calls.setdefault(replica, [])

    def leave(self, replica: str) -> list[StepKey]:
        """A Replica is gone; its calls."""
        return self._calls.pop(replica, [])

    def ask(self, replica: str, key: StepKey) -> None:
        """A Replica is asked for a Step."""
        self._calls[replica].append(key)

    def answered(self, replica: str, key: StepKey) -> bool:
        """Note that a Replica did a Step; False where nobody asked for it."""
        calls = self._calls.get(replica, [])
        if key not in calls:
            return False
        calls.remove(key)
        return True

    def with_room(self, depth: int, chains: ChainsUnderWay) -> Iterator[str]:
        """Those with fewer than `depth` calls; of those too many only who is not through.

        None that is at a suspect, and as many fewer to give a second call as suspects wait.
        """
        leaving, spared = self._leaving(), chains.num_suspects if depth > 1 else 0
        for replica, calls in self._calls.items():
            if len(calls) >= depth or (calls and chains.is_suspect(calls[0].chain)):
                continue
            if replica in leaving and not chains.bound_to(replica):
                continue
            if calls and spared:
                spared -= 1
                continue
            yield replica

    def is_idle(self, replica: str) -> bool:
        """Whether a Replica has no call."""
        return not self._calls[replica]

    def dismiss(self, chains: ChainsUnderWay, *, is_drained: bool) -> list[str]:
        """Let those go that are too many, or for which no Chain has or will have work."""
        going = [one for one in self._leaving() if self._is_idle(one, chains)]
        if is_drained and self._least is not None:
            idle = [one for one in self._calls if self._is_idle(one, chains) and one not in going]
            spare = min(len(self) - len(going) - self._least, len(idle) - chains.num_unbound)
            going += idle[: max(0, spare)]
        for replica in going:
            del self._calls[replica]
        return going

    def _leaving(self) -> list[str]:
        """Replicas that get no new Chain: those beyond the limit."""
        return [] if self.most is None else list(self._calls)[self.most :]

    def _is_idle(self, replica: str, chains: ChainsUnderWay) -> bool:
        return not self._calls[replica] and not chains.bound_to(replica)
