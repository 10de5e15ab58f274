"""Smaller: the same Volumes in smaller Blocks, where a device had less memory than predicted."""

from __future__ import annotations

from dataclasses import replace

from unet_batch.planning.plan import Planner, VolumePlan


def with_smaller_blocks(planner: Planner, plan: VolumePlan) -> VolumePlan:
    """The Volume cut so that a Block takes at most half of what it took beside the model.

    Raises MemoryBudgetError, with numbers, where it cannot be cut that small.
    """
    now = planner.footprint(plan)
    budget = now.model + (now.total - now.model) // 2
    return replace(planner, memory_budget=budget).plan(plan.info)
