"""Scan and Mask: what every reader returns and every writer takes, on one convention.

Arrays are (z, y, x) with the fastest-varying file axis last; `affine` maps the homogeneous
voxel index (z, y, x, 1) to RAS+ millimetres. A reader converts to this once; nothing is
ever flipped or resampled on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unet_batch.planning.volume_info import Json, LabelClass, OutsideImage

Affine = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan in memory.

    `name` is the suggested Volume id; `voxels_czyx` any real dtype; `channels` one name each;
    `modality` a DICOM code (`CT`, `MR`, `PT`) or ``; `metadata` JSON, free of identifiers;
    `warnings` what the reader found odd but usable, in whole sentences. Of a scan that is taken
    in place, `outside` says where its voxels lie, and `voxels_czyx` has their shape and type only.
    """

    name: str
    voxels_czyx: NDArray[np.generic]
    affine: Affine
    channels: tuple[str, ...]
    modality: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    outside: OutsideImage | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel pitch (z, y, x) in mm."""
        return spacing_of(self.affine)


@dataclass(frozen=True, slots=True)
class Mask:
    """Labels in memory: `voxels_zyx` uint8 or uint16 on the grid of `affine`.

    `warnings` are what its reader found odd but usable, in whole sentences.
    """

    voxels_zyx: NDArray[np.unsignedinteger]
    affine: Affine
    classes: tuple[LabelClass, ...]
    warnings: tuple[str, ...] = ()


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel pitch (z, y, x) in mm: the lengths of the affine's first three columns."""
    z, y, x = np.linalg.norm(affine[:3, :3], axis=0)
    return float(z), float(y), float(x)
