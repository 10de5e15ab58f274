"""VolumeInfo: the Catalog's row of one Volume, enough to plan without opening it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from unet_batch.pickling import by_fields

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@by_fields
@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class of Labels: its voxel `value`, its `name`, its RGB colour (0 to 255)."""

    value: int
    name: str
    color: tuple[int, int, int] = (230, 60, 60)


@by_fields
@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Statistics of one channel, computed once at ingest over its finite voxels.

    `percentiles` maps a percentage (0.5, 1, 5, 25, 50, 75, 95, 99, 99.5) to an intensity;
    `foreground_mean` and `foreground_std` are those of voxels above the channel's mean
    (nnU-Net style statistics of the body rather than of the air around it).
    """

    min: float
    max: float
    mean: float
    std: float
    percentiles: Mapping[float, float]
    foreground_share: float
    foreground_mean: float
    foreground_std: float
    num_nonfinite: int


@dataclass(frozen=True, slots=True)
class OutsideImage:
    """Where the voxels of a Volume lie that was taken in place: an OME-Zarr image elsewhere.

    Attributes
    ----------
    url: address of the image, absolute.
    path: the array of full resolution in it.
    axes: a letter for each axis of that array, in its own order (`tczyx`, `xyz`).
    version: digest of what is stored there, by which a changed image is told.
    block_czyx: voxels worth reading at once, whole chunks.
    """

    url: str
    path: str
    axes: str
    version: str = ""
    block_czyx: tuple[int, int, int, int] = (1, 1, 1, 1)


class VolumeBrief(NamedTuple):
    """What lists and plans need of a Volume: of a million they are made in seconds.

    The fields are those of VolumeInfo of the same names.
    """

    id: str
    modality: str
    dtype: str
    shape_zyx: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    num_nonfinite: int
    channels: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def num_voxels(self) -> int:
        """Voxels of one channel."""
        return prod(self.shape_zyx)


@by_fields
@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """What the Catalog knows of one Volume.

    Attributes
    ----------
    id: name within the Archive, safe as a path segment.
    shape_czyx: channels and voxels.
    dtype: NumPy name of the stored voxels (`int16`).
    spacing_mm: voxel pitch (z, y, x) in millimetres.
    affine: 16 floats, row-major 4x4, homogeneous voxel index (z, y, x) to RAS+ mm.
    shard_zyx, chunk_zyx: write and storage unit of the image.
    content_hash: hex digest of voxels, affine and channels; names the input of a result.
    modality: `CT`, `MR`, `PT`, ... or `` where unknown.
    labels: names of the published Labels.
    statistics: one a channel.
    warnings: what the checks at ingest found odd but usable.
    outside: where the voxels lie if not in the Archive.
    """

    id: str
    shape_czyx: tuple[int, int, int, int]
    dtype: str
    spacing_mm: tuple[float, float, float]
    affine: tuple[float, ...]
    chunk_zyx: tuple[int, int, int]
    shard_zyx: tuple[int, int, int]
    content_hash: str
    channels: tuple[str, ...]
    statistics: tuple[ChannelStatistics, ...]
    modality: str = ""
    labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict)
    outside: OutsideImage | None = None

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels along z, y and x."""
        return self.shape_czyx[1:]

    @property
    def num_voxels(self) -> int:
        """Voxels of one channel."""
        return prod(self.shape_zyx)

    @property
    def patient(self) -> str:
        """The patient's pseudonym within the Archive; `` where the scan's files name none."""
        return str(self.metadata.get("patient") or "")

    @property
    def num_nonfinite(self) -> int:
        """Voxels of all channels that are NaN or infinite."""
        return sum(one.num_nonfinite for one in self.statistics)
