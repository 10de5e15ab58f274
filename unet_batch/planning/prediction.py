"""Prediction: what a segment Job will take in time, memory, bytes and money; and what it took.

    seconds = start + decisions + tiles x seconds a tile / Replicas + the rest / Replicas

The first three are measured on the machine at hand (`Calibration`); the rest is what every
Volume costs beside its tiles: being read, planned, dispatched, written and published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from unet_batch.planning.volume_info import Json

VOLUME_S = 0.0025
"""A Replica's seconds for each Volume beside its tiles: the bench's archive of 500 of 40³."""

JOB_S = 5.0
"""What a Job waits for beside: Ray's own processes that start and import what they need, the
first Block, the last Labels. On two cores two Jobs took 12.7 s beside their tiles, of which 7.4 s
were measured when they were calibrated."""

BYTES_PER_SECOND = 3e8
"""Decoded voxels and encoded labels a second of a Replica's cores; measured on two of them."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How fast a model runs on a machine.

    Attributes
    ----------
    seconds_per_tile: of a Replica, with all that is done to a tile.
    start_s: until a new Replica is ready; `choice_s` what measuring the engines takes before,
        `check_s` what holding bfloat16 against float32 takes after.
    base_bytes: memory of a Replica before it holds any voxels.
    engine: what ran.
    source: where the figures come from, in words.
    circumstances: what they hold for.
    """

    seconds_per_tile: float
    start_s: float = 0.0
    choice_s: float = 0.0
    check_s: float = 0.0
    base_bytes: int = 0
    engine: str = ""
    source: str = "given"
    circumstances: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """What a Job has to do: Volumes and tiles left, and the bytes of their voxels and labels."""

    num_volumes: int = 0
    num_tiles: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    block_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.num_volumes + other.num_volumes,
            self.num_tiles + other.num_tiles,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            max(self.block_bytes, other.block_bytes),
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What a Job takes, as predicted or as it was.

    `seconds` are from its start to its end, `memory_bytes` the most that a Replica holds;
    `replica_hours` count all Replicas, `cost` is their price. None: not known.
    """

    tiles: int
    bytes_read: int
    bytes_written: int
    seconds: float | None = None
    memory_bytes: int | None = None
    replica_hours: float | None = None
    cost: float | None = None

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Account:
        """The Account whose fields a JSON object has."""
        return cls(**content)

    def to_json(self) -> dict[str, Json]:
        """All fields."""
        return asdict(self)


def predict(
    work: Work, calibration: Calibration | None, *, num_replicas: int, price: float | None
) -> Account:
    """What `work` will take on `num_replicas` Replicas, at `price` for each hour of one.

    Without a Calibration neither seconds nor memory are known.
    """
    moved = Account(work.num_tiles, work.bytes_read, work.bytes_written)
    if calibration is None:
        return moved
    if not work.num_volumes:
        return account(moved, 0.0, calibration.base_bytes, num_replicas, price)
    busy_s = (
        work.num_tiles * calibration.seconds_per_tile
        + work.num_volumes * VOLUME_S
        + (work.bytes_read + work.bytes_written) / BYTES_PER_SECOND
    )
    start_s = JOB_S + calibration.start_s + calibration.choice_s + calibration.check_s
    seconds = start_s + busy_s / num_replicas
    # Without what a Replica holds anyway, its Blocks alone would say too little.
    memory = calibration.base_bytes + work.block_bytes if calibration.base_bytes else 0
    return account(moved, seconds, memory, num_replicas, price)


def account(
    moved: Account, seconds: float, memory_bytes: int, num_replicas: int, price: float | None
) -> Account:
    """`moved` with the time, memory and price of a Job of so many Replicas."""
    hours = num_replicas * seconds / 3600
    return Account(
        moved.tiles,
        moved.bytes_read,
        moved.bytes_written,
        seconds=seconds,
        memory_bytes=memory_bytes or None,
        replica_hours=hours,
        cost=None if price is None else hours * price,
    )


def deviations(predicted: Account, actual: Account) -> dict[str, float]:
    """By how much each figure missed the fact, as a share of it: 0.1 is 10 % too much."""
    pairs = {
        name: (getattr(predicted, name), getattr(actual, name))
        for name in ("tiles", "bytes_read", "bytes_written", "seconds", "memory_bytes", "cost")
    }
    return {name: said / was - 1 for name, (said, was) in pairs.items() if was and said is not None}
