"""Held: what the Driver keeps of work under way, all of it references and names.

As long as a reference is held here, Ray keeps what it refers to. Labels are let go when the last
region that they are a part of is stored, sums when they are stitched, and all of a Volume's
when the Volume is through.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from unet_batch.inference.references import ArrayRef, PieceRef, Ref
from unet_batch.inference.replica import ReplicaReport
from unet_batch.planning.plan import BlockKey
from unet_batch.tiling.blocks import Cell
from unet_batch.tiling.box import Box


@dataclass(slots=True)
class _Cells:
    """A Volume's labels by cell, the regions that still need them, and its sums by Seam."""

    labels: dict[Box, ArrayRef] = field(default_factory=dict)
    uses: dict[Box, int] = field(default_factory=dict)
    sums: dict[Box, dict[int, ArrayRef]] = field(default_factory=dict)


@dataclass(slots=True)
class Reading:
    """The voxels of a Step by Block, and which of their references are not there yet."""

    pieces: dict[BlockKey, list[PieceRef]]
    started: float
    left: set[Ref]

    @classmethod
    def of(cls, pieces: dict[BlockKey, list[PieceRef]], started: float) -> Reading:
        """One that has just begun; several pieces may share a reference."""
        return cls(pieces, started, {one.array.ref for found in pieces.values() for one in found})


@dataclass(slots=True)
class Workers:
    """Who worked on a Volume: Replicas and their machines, in order, and the most memory held."""

    replicas: dict[str, None] = field(default_factory=dict)
    nodes: dict[str, None] = field(default_factory=dict)
    peak_bytes: int = 0

    def note(self, replica: str, report: ReplicaReport) -> None:
        """Add who did a Block of it."""
        self.replicas[replica] = self.nodes[report.node] = None
        self.peak_bytes = max(self.peak_bytes, report.peak_rss_bytes)


class HeldCells:
    """The references of all Volumes under way."""

    def __init__(self) -> None:
        self._volumes: defaultdict[str, _Cells] = defaultdict(_Cells)

    def keep_labels(self, volume_id: str, box: Box, array: ArrayRef, *, num_regions: int) -> None:
        """Hold a cell's labels until `num_regions` regions that it is a part of are stored."""
        volume = self._volumes[volume_id]
        volume.labels[box] = array
        volume.uses[box] = num_regions

    def keep_sums(self, volume_id: str, box: Box, sweep: int, array: ArrayRef) -> None:
        """Hold what a Sweep contributes to a Seam."""
        self._volumes[volume_id].sums.setdefault(box, {})[sweep] = array

    def labels(self, volume_id: str, box: Box) -> ArrayRef:
        """The labels of a cell."""
        return self._volumes[volume_id].labels[box]

    def take_sums(self, volume_id: str, cell: Cell) -> list[ArrayRef]:
        """The sums of a Seam, in the order of its Sweeps, and let go of them."""
        sums = self._volumes[volume_id].sums.pop(cell.box)
        return [sums[sweep] for sweep in cell.sweeps]

    def let_go(self, volume_id: str, box: Box) -> None:
        """Note that one region more that a cell is a part of is stored."""
        volume = self._volumes.get(volume_id)
        if volume is None or box not in volume.uses:
            return
        volume.uses[box] -= 1
        if volume.uses[box] <= 0:
            del volume.uses[box], volume.labels[box]

    def drop(self, volume_id: str) -> None:
        """Let go of all that is held of a Volume."""
        self._volumes.pop(volume_id, None)
