"""Survey: what a Job over very many Volumes would cost, each shape being planned once.

A Plan holds every Volume's cuts, which a million of them would not fit into memory for. To
say how many tiles, Blocks and bytes a Job takes only their shapes matter, and archives have
few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from unet_batch.errors import UnetBatchError
from unet_batch.planning.cost import Footprint
from unet_batch.planning.plan import Planner
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo

AnyVolume = VolumeBrief | VolumeInfo


@dataclass(frozen=True, slots=True)
class VolumeCost:
    """Tiles, Blocks and Sweeps of a Volume, and what a Replica holds for its largest Block.

    `has_seams` says that sums travel between its Sweeps.
    """

    num_tiles: int
    num_blocks: int
    num_sweeps: int
    footprint: Footprint
    has_seams: bool = False


def survey(
    planner: Planner, volumes: Iterable[AnyVolume]
) -> Iterator[tuple[AnyVolume, VolumeCost | str]]:
    """Each Volume with its cost, or with the reason for which it would be quarantined; lazy.

    Briefs do, unless the model wants an orientation: that needs the affine of a VolumeInfo.
    """
    known: dict[tuple[object, ...], VolumeCost | str] = {}
    for volume in volumes:
        key = (
            volume.shape_zyx,
            volume.dtype,
            volume.channels,
            volume.num_nonfinite,
            planner.grid.map_of(volume),
        )
        cost = known.get(key)
        if cost is None:
            cost = _cost(planner, volume)
            if isinstance(cost, VolumeCost):  # a reason names its Volume: not for others
                known[key] = cost
        yield volume, cost


def _cost(planner: Planner, volume: AnyVolume) -> VolumeCost | str:
    try:
        layout = planner.layout(volume)
    except UnetBatchError as error:
        return str(error)
    return VolumeCost(
        num_tiles=layout.num_tiles,
        num_blocks=layout.num_blocks,
        num_sweeps=len(layout.sweeps),
        footprint=planner.layout_footprint(layout, volume.dtype),
        has_seams=layout.has_seams,
    )
