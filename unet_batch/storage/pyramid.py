"""Pyramids: coarser levels beside an image or mask, so that viewers open large ones swiftly.

    0-<hash>   512 x 512 x 300   the voxels themselves
    1-<hash>   256 x 256 x 300   means of 2 x 2 voxels, while z is the coarser axis
    2-<hash>   128 x 128 x 150   means of 2 x 2 x 2

An axis is halved while it is not much coarser than the finest one and has two voxels; levels
end where one fits a single Chunk. Images are averaged; of a mask every second voxel is taken,
since a mean of classes is no class. Levels are written out of sight, Shard by Shard through
Dask, and shown by one swap of the group's document: that is NGFF's `multiscales`, in which
`translation` says that a mean lies between the voxels it was made of.

Nothing reads the levels but viewers. They can be made again at any time, and what is published
anew (another generation of a mask) begins without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.encoding import Encoding
from unet_batch.storage.layout import MAX_SINGLE_CHUNK_VOXELS, layout_for
from unet_batch.storage.stored_array import StoredArray
from unet_batch.storage.stores import open_store
from unet_batch.storage.volume import Labels, Volume
from unet_batch.tiling.box import Box

Shape3 = tuple[int, int, int]

MAX_LEVELS = 12
_ALMOST_AS_FINE = 1.5
"""An axis whose pitch is up to this many times the finest one's is halved with it."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level: voxels (z, y, x), and how many of the voxels of the level above make one."""

    shape_zyx: Shape3
    factors_zyx: Shape3


def levels_of(shape_zyx: Shape3, spacing_mm: Sequence[float]) -> list[Level]:
    """The levels below an image of this shape; none where it is a single Chunk itself.

    >>> [level.shape_zyx for level in levels_of((300, 512, 512), (1.5, 0.7, 0.7))]
    [(300, 256, 256), (150, 128, 128)]
    """
    levels: list[Level] = []
    shape, pitch = np.array(shape_zyx), np.array(spacing_mm, dtype=float)
    while np.prod(shape) > MAX_SINGLE_CHUNK_VOXELS and len(levels) < MAX_LEVELS:
        divisible = shape >= 2
        is_fine = pitch <= _ALMOST_AS_FINE * pitch[divisible].min()
        factors = np.where(divisible & is_fine, 2, 1)
        shape, pitch = shape // factors, pitch * factors
        levels.append(Level(_triple(shape), _triple(factors)))
    return levels


def build_pyramids(volume: Volume, labels: Sequence[str] | None = None) -> None:
    """Add levels to a Volume's image and to its Labels, or to those of these names."""
    build_image_pyramid(volume)
    for name in volume.labels if labels is None else labels:
        build_labels_pyramid(volume, volume.labels[name])


def build_image_pyramid(volume: Volume) -> int:
    """Add levels to a Volume's image; how many it has now. One taken in place gets none."""
    info = volume.info
    if info.outside is not None:
        return 0
    name = paths.voxels_name(info.content_hash)
    _add_levels(
        volume.stored,
        paths.volume_path(info.id),
        [f"{n}-{name.removeprefix(paths.VOXELS_PREFIX)}" for n in range(1, MAX_LEVELS + 1)],
        levels_of(info.shape_zyx, info.spacing_mm),
        is_mask=False,
    )
    return len(levels_of(info.shape_zyx, info.spacing_mm))


def build_labels_pyramid(volume: Volume, labels: Labels) -> int:
    """Add levels to a mask; how many it has now."""
    levels = levels_of(labels.shape_zyx, volume.spacing_mm)
    group = paths.labels_path(volume.id, labels.name)
    names = [f"{labels.key}.{n}" for n in range(1, MAX_LEVELS + 1)]
    _add_levels(labels.stored, group, names, levels, is_mask=True)
    return len(levels)


def _add_levels(
    finest: StoredArray, group: str, names: Sequence[str], levels: Sequence[Level], *, is_mask: bool
) -> None:
    above = finest
    for name, level in zip(names, levels, strict=False):
        above = _write_level(above, f"{group}/{name}", level, is_mask=is_mask)
    first = finest.path.rpartition("/")[2]

    def with_levels(content: bytes | None) -> bytes:
        document = ome_zarr.read_document(content or b"{}", f"{finest.url}/{group}")
        factors = [level.factors_zyx for level in levels]
        return ome_zarr.to_bytes(
            ome_zarr.with_levels(document, first, names, factors, is_mean=not is_mask)
        )

    if levels:
        open_store(finest.url).update(paths.document(group), with_levels)


def _write_level(above: StoredArray, path: str, level: Level, *, is_mask: bool) -> StoredArray:
    """Store one level, made of the one above it, a Shard at a time."""
    leading = above.shape[:-3]
    shape, layout = (*leading, *level.shape_zyx), layout_for(level.shape_zyx)
    ones = (1,) * len(leading)
    shard = (*ones, *layout.shard_zyx)
    compression: Any = "zstd" if is_mask else "blosc"
    encoding = Encoding(above.dtype_name, (*ones, *layout.chunk_zyx), shard, compression)
    store = open_store(above.url)
    axes = "czyx"[-len(shape) :]
    store.put(paths.document(path), ome_zarr.array_bytes(shape, encoding, axes))
    factors = (*ones, *level.factors_zyx)
    for region, voxels in _coarser(above, shape, shard, factors, is_mask=is_mask):
        cell = (a // n for a, n in zip(region.start, shard, strict=True))
        store.put(paths.shard_path(path, cell), encoding.encode(voxels))
    return StoredArray(above.url, path, shape, above.dtype_name)


def _coarser(
    above: StoredArray,
    shape: tuple[int, ...],
    shard: tuple[int, ...],
    factors: tuple[int, ...],
    *,
    is_mask: bool,
) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Each Shard of the level with its voxels; lazily, one block of Dask at a time."""
    blocks = tuple(min(n, s * f) for n, s, f in zip(above.shape, shard, factors, strict=True))
    lazy = above.lazy(blocks)
    for region in Box.from_shape(shape).split(shard):
        source = tuple(
            slice(a * f, b * f) for a, b, f in zip(region.start, region.stop, factors, strict=True)
        )
        voxels: NDArray[Any] = lazy[source].compute(scheduler="synchronous")
        yield region, _every_nth(voxels, factors) if is_mask else _means(voxels, factors)


def _every_nth(voxels: NDArray[Any], factors: tuple[int, ...]) -> NDArray[Any]:
    return voxels[tuple(slice(None, None, factor) for factor in factors)]


def _means(voxels: NDArray[Any], factors: tuple[int, ...]) -> NDArray[Any]:
    """Means over cells of `factors` voxels, whole numbers rounded; axes divide evenly."""
    split = [n for size, f in zip(voxels.shape, factors, strict=True) for n in (size // f, f)]
    cells = voxels.reshape(split)
    with np.errstate(invalid="ignore"):
        means = cells.mean(axis=tuple(range(1, 2 * len(factors), 2)), dtype=np.float64)
    rounded = means if voxels.dtype.kind == "f" else np.rint(means)
    found: NDArray[Any] = rounded.astype(voxels.dtype)
    return found


def _triple(numbers: NDArray[Any]) -> Shape3:
    z, y, x = (int(number) for number in numbers)
    return z, y, x
