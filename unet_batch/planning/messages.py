"""What the Schedule and the driver say to each other: Instructions out, Events in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from unet_batch.planning.plan import BlockKey, Step
from unet_batch.tiling.blocks import Cell
from unet_batch.tiling.box import Box


class StepKey(NamedTuple):
    """A Step by number: its Chain, and its position in it."""

    chain: int
    number: int


@dataclass(frozen=True, slots=True)
class Read:
    """Fetch the voxels of a Step's Blocks; with `rebuild`, those of a lost slab's tiles too."""

    key: StepKey
    step: Step
    rebuild: bool


@dataclass(frozen=True, slots=True)
class Predict:
    """Have a Replica predict a Step that was read."""

    key: StepKey
    step: Step
    replica: str
    rebuild: bool


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of the voxels of a Step."""

    key: StepKey


@dataclass(frozen=True, slots=True)
class Stitch:
    """Add the sums of a Seam's Sweeps, in order, and finish it to labels."""

    volume_id: str
    cell: Cell


class Region(NamedTuple):
    """A whole Shard of a Volume, with the cells that fill it."""

    volume_id: str
    box: Box
    cells: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write regions, all of whose cells have landed, and publish the Volumes `whole` with them."""

    regions: tuple[Region, ...]
    whole: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Publish:
    """Make finished Labels visible."""

    volume_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """A Volume reached its outcome; its parts may be forgotten everywhere."""

    volume_id: str
    outcome: Literal["done", "quarantined", "cancelled"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retire:
    """End a Replica that no work will come for; it is not replaced."""

    replica: str


Instruction = Read | Predict | Release | Stitch | Write | Publish | Close | Retire


@dataclass(frozen=True, slots=True)
class ReplicaReady:
    """A Replica has loaded its model."""

    replica: str


@dataclass(frozen=True, slots=True)
class ReplicaGone:
    """A Replica died, and with it its slabs and the calls in flight."""

    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class WasRead:
    """A Step's voxels have been fetched."""

    key: StepKey


@dataclass(frozen=True, slots=True)
class WasPredicted:
    """A Replica returned a Step; `failures` names the Blocks it could not do, and why."""

    key: StepKey
    replica: str
    failures: Mapping[BlockKey, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WasStitched:
    """A Seam's labels are there."""

    volume_id: str
    cell: Cell


@dataclass(frozen=True, slots=True)
class WasWritten:
    """Regions are stored; the Labels of `published` are visible with them."""

    regions: tuple[Region, ...]
    published: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WasPublished:
    """Labels are visible."""

    volume_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegionsLost:
    """Cells of these regions went with the machine that held them, before they were stored."""

    regions: tuple[Region, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class SeamLost:
    """Sums of a Seam went with the machine that held them, before they were stitched."""

    volume_id: str
    cell: Cell
    reason: str


@dataclass(frozen=True, slots=True)
class VolumeFailed:
    """Something about one Volume went wrong for good."""

    volume_id: str
    reason: str


Event = (
    ReplicaReady
    | ReplicaGone
    | WasRead
    | WasPredicted
    | WasStitched
    | WasWritten
    | WasPublished
    | RegionsLost
    | SeamLost
    | VolumeFailed
)
