"""GridSpec: the spacing and orientation that a network wants its scans in."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo
from unet_batch.tiling.grid_map import UNTURNED, AxisTurn, GridMap, turns_to

Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Spacing = tuple[Millimetres | None, Millimetres | None, Millimetres | None]
"""Of z, y and x; None keeps the scan's own."""


class GridSpec(SpecModel):
    """The grid that scans are resampled to; where nothing is said, they stay as they are.

    `orientation` has a letter for x, y and z, in this order: the side to which the index
    grows, such as `LPS` or `RAS`. Axes are swapped and flipped to it, never turned: an
    oblique scan keeps its oblique axes. `spacing_mm` goes along the axes so oriented.
    """

    spacing_mm: Spacing | Literal["median"] | None = Field(
        None, description="(z, y, x); median: of the Volumes to train on; None: each scan's own"
    )
    orientation: str | None = Field(None, description="such as LPS; None: each scan's own")

    @model_validator(mode="after")
    def _check_orientation(self) -> Self:
        if self.orientation is None:
            return self
        sides = [{"L": "x", "R": "x", "P": "y", "A": "y", "I": "z", "S": "z"}.get(letter)
                 for letter in self.orientation]  # fmt: skip
        if sorted(map(str, sides)) != ["x", "y", "z"]:
            raise ValueError(
                f"orientation {self.orientation!r} must have one letter of each of L or R, P or A,"
                " I or S: the sides to which x, y and z grow, such as LPS"
            )
        return self

    def turns(self, volume: VolumeInfo | VolumeBrief) -> tuple[AxisTurn, ...]:
        """Which axis of the Volume each axis of the grid is. A brief does for no orientation."""
        if self.orientation is None:
            return UNTURNED
        if isinstance(volume, VolumeBrief):
            raise TypeError("an orientation needs the Volume's affine, which a VolumeBrief lacks")
        affine = np.array(volume.affine, dtype=np.float64).reshape(4, 4)
        return turns_to(self.orientation, affine)

    def map_of(self, volume: VolumeInfo | VolumeBrief) -> GridMap | None:
        """Between the Volume's voxels and this grid; None where they are the same."""
        if self.spacing_mm == "median":
            raise ValueError("the median spacing is not known before a training begins")
        if self.spacing_mm is None and self.orientation is None:
            return None
        grid_map = GridMap.of(
            volume.shape_zyx,
            volume.spacing_mm,
            wanted_mm=self.spacing_mm,
            turns=self.turns(volume),
        )
        return None if grid_map.is_identity else grid_map


OWN_GRID = GridSpec()
"""Every scan's own grid: nothing is resampled."""
