"""Volume and Labels: what a person or a worker reads from an Archive, lazily.

Both are plain values that travel to workers at the cost of their description; voxels are
read only when Dask computes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from unet_batch.errors import GeometryError, NotFoundError, StoreError
from unet_batch.formats.scan import Affine, Mask
from unet_batch.pickling import by_fields
from unet_batch.planning.volume_info import Json, LabelClass, VolumeInfo
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.layout import Shape3
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.probabilities import DTYPE, array_path, probabilities_path
from unet_batch.storage.record import classes_from_json, classes_to_json, info_from_json
from unet_batch.storage.stored_array import StoredArray
from unet_batch.storage.stores import open_store

AFFINE_TOLERANCE_MM = 1e-3
"""Masks written by other programs carry their affine in float32."""


class NotInArchiveError(NotFoundError, KeyError):
    """A name that the Archive, or a Volume's Labels, does not hold."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


@dataclass(frozen=True, slots=True)
class Labels:
    """A published mask beside its Volume.

    Attributes
    ----------
    name: of the Labels.
    classes: what the voxel values mean.
    provenance: what made the mask, as its writer told.
    key: generation of the mask.
    probability_names: classes whose probabilities were kept, one a channel; mostly none.
    """

    archive_url: str
    volume_id: str
    name: str
    key: str
    shape_zyx: Shape3
    dtype: str
    shard_zyx: Shape3
    classes: tuple[LabelClass, ...]
    provenance: Mapping[str, Json]
    probability_names: tuple[str, ...] = ()

    @property
    def array(self) -> da.Array:
        """The mask, lazy, axes (z, y, x), `uint8` or `uint16`, one block a Shard."""
        return self.stored.lazy(self.shard_zyx)

    @property
    def stored(self) -> StoredArray:
        """The same voxels; indexing it reads at once, without Dask."""
        return StoredArray(self.archive_url, self._path, self.shape_zyx, self.dtype)

    @property
    def probabilities(self) -> da.Array | None:
        """round(255 p) of each of `probability_names`, lazy, uint8 (c, z, y, x), if kept."""
        if not self.probability_names:
            return None
        path = array_path(probabilities_path(self._path))
        shape = (len(self.probability_names), *self.shape_zyx)
        return StoredArray(self.archive_url, path, shape, DTYPE).lazy((1, *self.shard_zyx))

    @property
    def _path(self) -> str:
        return f"{paths.labels_path(self.volume_id, self.name)}/{self.key}"


@dataclass(frozen=True, slots=True)
class LabelsByName(Mapping[str, Labels]):
    """The published Labels of one Volume; every look reads what is published now."""

    archive_url: str
    volume_id: str

    def __getitem__(self, name: str) -> Labels:
        path = paths.document(paths.labels_path(self.volume_id, name))
        try:
            content = open_store(self.archive_url).get(path)
        except NotFoundError as error:
            raise NotInArchiveError(
                f"Volume {self.volume_id} has no Labels {name!r}; it has {sorted(self) or 'none'}"
            ) from error
        own = ome_zarr.own_attributes(ome_zarr.read_document(content, path), path)
        return self._labels(name, own, where=f"{self.archive_url}/{path}")

    def __iter__(self) -> Iterator[str]:
        return iter(read_labels_names(open_store(self.archive_url), self.volume_id))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _labels(self, name: str, own: Mapping[str, Any], *, where: str) -> Labels:
        try:
            shape, shard = tuple(own["shape_zyx"]), tuple(own["shard_zyx"])
            key, dtype, provenance = str(own["key"]), str(own["dtype"]), dict(own["provenance"])
            classes = classes_from_json(own["classes"], where)
            probabilities = tuple(map(str, own.get("probabilities", ())))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{where}: not a complete description of Labels ({error!r}); make them again"
            ) from error
        return Labels(
            self.archive_url,
            self.volume_id,
            name,
            key,
            shape,
            dtype,
            shard,
            classes,
            provenance,
            probabilities,
        )


@by_fields
@dataclass(frozen=True, slots=True)
class Volume:
    """One scan of an Archive.

    >>> volume.image[0, 10:20].compute()    # doctest: +SKIP
    """

    archive_url: str
    info: VolumeInfo

    @property
    def id(self) -> str:
        """Name within the Archive."""
        return self.info.id

    @property
    def image(self) -> da.Array:
        """The voxels, lazy, axes (c, z, y, x), one block a Shard of one channel.

        Of a Volume taken in place a block is about as large, of whole chunks of its image.
        """
        outside = self.info.outside
        return self.stored.lazy(outside.block_czyx if outside else (1, *self.info.shard_zyx))

    @property
    def stored(self) -> StoredArray:
        """The same voxels; indexing it reads at once, without Dask."""
        info, outside = self.info, self.info.outside
        if outside is not None:
            return StoredArray(outside.url, outside.path, info.shape_czyx, info.dtype, outside)
        path = f"{paths.volume_path(info.id)}/{paths.voxels_name(info.content_hash)}"
        return StoredArray(self.archive_url, path, info.shape_czyx, info.dtype)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel pitch (z, y, x) in millimetres."""
        return self.info.spacing_mm

    @property
    def affine(self) -> Affine:
        """4x4: homogeneous voxel index (z, y, x, 1) to RAS+ millimetres."""
        return np.array(self.info.affine, dtype=np.float64).reshape(4, 4)

    @property
    def metadata(self) -> Mapping[str, Json]:
        """What ingest kept of the scan's own description, free of identifiers."""
        return self.info.metadata

    @property
    def labels(self) -> Mapping[str, Labels]:
        """The masks published for this Volume, by name."""
        return LabelsByName(self.archive_url, self.id)

    def write_labels(self, name: str, mask: Mask, *, provenance: Mapping[str, Json]) -> None:
        """Publish a whole mask at once; the same mask again changes nothing.

        Raises GeometryError where the mask lies on another grid than the Volume, and SpecError
        where the name is unsafe in a path or the voxels are neither uint8 nor uint16.
        """
        self._check_grid(name, mask)
        dtype = mask.voxels_zyx.dtype.name
        writer = LabelsWriter.for_volume(
            self.archive_url,
            self.info,
            name=name,
            classes=mask.classes,
            key=_mask_key(mask),
            dtype=dtype,
        )
        if writer.published_key() != writer.key:
            writer.prepare()
            for region in writer.write_regions():
                writer.write(region, mask.voxels_zyx[region.slices])
        writer.publish(provenance)

    def _check_grid(self, name: str, mask: Mask) -> None:
        shape = mask.voxels_zyx.shape
        if shape != self.info.shape_zyx:
            raise GeometryError(
                f"mask for Labels {name!r} of {self.id} has shape {shape} (z, y, x), the Volume "
                f"{self.info.shape_zyx}; bring it onto the Volume's grid first"
            )
        distance = np.abs(mask.affine - self.affine).max()
        if not distance <= AFFINE_TOLERANCE_MM:
            raise GeometryError(
                f"mask for Labels {name!r} of {self.id} lies elsewhere: its affine differs by up "
                f"to {distance:.4g}, allowed are {AFFINE_TOLERANCE_MM}; bring it onto the "
                "Volume's grid first"
            )


def read_info(store: ObjectStore, volume_id: str) -> VolumeInfo:
    """The VolumeInfo of a published Volume, with the Labels it has now; two small reads.

    Raises NotFoundError where it is not published, StoreError where its document is damaged.
    """
    path = paths.document(paths.volume_path(volume_id))
    where = f"{store.url}/{path}"
    own = ome_zarr.own_attributes(ome_zarr.read_document(store.get(path), where), where)
    return info_from_json(own, labels=read_labels_names(store, volume_id), where=where)


def read_labels_names(store: ObjectStore, volume_id: str) -> list[str]:
    """The names of the Labels published for a Volume, sorted."""
    path = paths.document(paths.labels_index_path(volume_id))
    try:
        content = store.get(path)
    except NotFoundError:
        return []
    return ome_zarr.labels_index_names(ome_zarr.read_document(content, path), path)


def _mask_key(mask: Mask) -> str:
    """A digest of voxels and classes: equal masks are one generation."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(ome_zarr.to_bytes({"classes": list(classes_to_json(mask.classes))}))
    digest.update(mask.voxels_zyx.dtype.str.encode())
    digest.update(np.ascontiguousarray(mask.voxels_zyx).data)
    return digest.hexdigest()
