"""Shares: how the Replicas of one cluster are divided among the Jobs that run on it.

Jobs differ in the size of their Replicas, so that a cluster is divided in fractions of itself:
a Replica takes 1 / capacity of it, where `capacity` such Replicas would fill it.

    first      one Replica for each Job: none starves, whatever its priority
    then       the higher priority takes what it wants; of equal ones each takes its share, and
               what one leaves goes to the others (max-min fairness, weighted)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Claim:
    """What one Job wants: Replicas now, of which `capacity` would fill the whole cluster.

    `share` is its weight among Jobs of the same `priority`; a higher priority goes first.
    """

    job: str
    wanted: int
    capacity: int
    priority: int = 0
    share: float = 1.0


def allot(claims: Iterable[Claim]) -> dict[str, int]:
    """Replicas for each Job: at least one, at most what it wants.

    >>> allot([Claim("a", 8, 8, share=3.0), Claim("b", 8, 8, share=1.0)])
    {'a': 6, 'b': 2}
    >>> allot([Claim("urgent", 8, 8, priority=1), Claim("other", 8, 8)])
    {'urgent': 7, 'other': 1}
    """
    ordered = sorted(claims, key=lambda claim: (-claim.priority, claim.job))
    free = 1.0 - sum(1 / claim.capacity for claim in ordered)
    allotted: dict[str, int] = {}
    for _, level in groupby(ordered, key=lambda claim: claim.priority):
        equals = list(level)
        for claim, more in zip(equals, _divide(equals, free), strict=True):
            allotted[claim.job] = 1 + more
            free -= more / claim.capacity
    return allotted


def _divide(claims: Sequence[Claim], free: float) -> list[int]:
    """Replicas beyond the first for Jobs of equal priority, `free` being left of the cluster."""
    portions = _fair(claims, max(free, 0.0))
    given = [int(p * c.capacity + 1e-9) for p, c in zip(portions, claims, strict=True)]
    left = free - sum(n / c.capacity for n, c in zip(given, claims, strict=True))
    remainder = [p * c.capacity - n for p, c, n in zip(portions, claims, given, strict=True)]
    order = sorted(range(len(claims)), key=lambda k: (-round(remainder[k], 6), -claims[k].share))
    while fitting := [
        k
        for k in order
        if given[k] + 1 < claims[k].wanted and 1 / claims[k].capacity <= left + 1e-9
    ]:
        k = fitting[0]
        given[k] += 1
        left -= 1 / claims[k].capacity
        order.append(order.pop(order.index(k)))
    return given


def _fair(claims: Sequence[Claim], free: float) -> list[float]:
    """Fractions of the cluster: by weight, none more than it wants, nothing left that one wants."""
    needs = [max(claim.wanted - 1, 0) / claim.capacity for claim in claims]
    portions = [0.0] * len(claims)
    open_ = set(range(len(claims)))
    while open_:
        weight = sum(claims[k].share for k in open_)
        fed = {k for k in open_ if needs[k] <= free * claims[k].share / weight}
        for k in fed or open_:
            portions[k] = needs[k] if fed else free * claims[k].share / weight
        free -= sum(needs[k] for k in fed)
        open_ = open_ - fed if fed else set()
    return portions
