"""Control: what is wanted of a Job while it runs; set by whoever hears of it, asked by drivers."""

from __future__ import annotations

from typing import Literal, get_args

Wanted = Literal["run", "pause", "cancel"]
WANTED: tuple[Wanted, ...] = get_args(Wanted)


class Control:
    """What is wanted of one Job now, from any thread; asking costs the reading of an attribute.

    Attributes
    ----------
    wanted: `pause` finishes the Volumes under way and begins no more; `cancel` gives up those
        under way, and the rest.
    max_replicas: Replicas that the Job may hold while others run on the same cluster; None: as
        many as its Spec says.
    """

    __slots__ = ("max_replicas", "wanted")

    def __init__(self) -> None:
        self.wanted: Wanted = "run"
        self.max_replicas: int | None = None
