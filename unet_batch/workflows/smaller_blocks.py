"""What is done with Volumes for which memory ran out: again in smaller Blocks, then no more.

A Replica has halved its batches by then. The Volume's regions that were written already are
written again, whole; readers see none of them before the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from unet_batch.errors import MemoryBudgetError
from unet_batch.inference.outcome import Outcome
from unet_batch.monitoring.events import Listener, Warned
from unet_batch.planning.plan import Plan
from unet_batch.planning.smaller import with_smaller_blocks

MAX_HALVINGS = 2

OnOutcome = Callable[[Outcome], None]
Run = Callable[[Plan, OnOutcome], None]
"""Carries out a Plan, and tells every Volume's Outcome."""


def run_within_memory(plan: Plan, run: Run, *, on_outcome: OnOutcome, listen: Listener) -> None:
    """`run` a Plan; what memory ran out for, again in Blocks half as large, twice at most.

    `on_outcome` is told each Volume's last Outcome only, with all that was tried.
    """
    retrial = _Retrial(plan, on_outcome, listen)
    while retrial.plan.volumes:
        run(retrial.plan, retrial.take)
        retrial.cut_smaller()


class _Retrial:
    """Which Volumes are to be tried again, and in what Blocks they were tried."""

    def __init__(self, plan: Plan, on_outcome: OnOutcome, listen: Listener) -> None:
        self.plan = plan
        self._on_outcome, self._listen = on_outcome, listen
        self._short: dict[str, Outcome] = {}
        self._tried: defaultdict[str, list[str]] = defaultdict(list)

    def take(self, outcome: Outcome) -> None:
        """Keep an Outcome back where memory ran out; pass all others on."""
        if outcome.is_short:
            self._short[outcome.volume_id] = outcome
        else:
            self._on_outcome(outcome)

    def cut_smaller(self) -> None:
        """Plan once more what was kept back; give up what cannot be cut, or was cut enough."""
        planner, before = self.plan.planner, self.plan.volumes
        self.plan = Plan(planner, ())
        short, self._short = self._short, {}
        for volume_id, outcome in short.items():
            tried = self._tried[volume_id]
            tried.append(str(planner.footprint(before[volume_id])))
            if len(tried) > MAX_HALVINGS:
                self._give_up(outcome, tried, "give Replicas more memory, or use a smaller roi")
                continue
            try:
                smaller = with_smaller_blocks(planner, before[volume_id])
            except MemoryBudgetError as error:
                self._give_up(outcome, tried, f"they cannot be halved: {error}")
                continue
            self.plan.volumes[volume_id] = smaller
            self._tell(outcome, tried[-1], str(planner.footprint(smaller)))

    def _give_up(self, outcome: Outcome, tried: list[str], advice: str) -> None:
        budget = self.plan.planner.memory_budget / 2**20
        reason = (
            f"{outcome.reason}. resources.memory_budget is {budget:.0f} MiB, and memory ran out in"
            f" Blocks predicted to take {', then '.join(tried)}; {advice}"
        )
        self._on_outcome(replace(outcome, reason=reason))

    def _tell(self, outcome: Outcome, before: str, now: str) -> None:
        self._listen(
            Warned(
                f"Volume {outcome.volume_id!r}: {outcome.reason}. Its Blocks were predicted to"
                f" take {before}; it is predicted again in Blocks of {now}"
            )
        )
