"""LabelsWriter: a mask is written Shard by Shard out of sight, then shown by one atomic put.

    labels/liver/zarr.json ──path──> labels/liver/<key>/     what readers see
                                     labels/liver/<other>/   being written, or left by a crash

`key` names a generation: the same key always means the same voxels, so every step may be
repeated after a crash, by any process, and ends in the same bytes. A mask published under
another key stays whole and visible until the put.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import ConflictError, NotFoundError, SpecError
from unet_batch.planning.volume_info import Json, LabelClass, VolumeInfo
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.encoding import Encoding
from unet_batch.storage.layout import Layout, Shape3, layout_for
from unet_batch.storage.record import classes_to_json
from unet_batch.storage.stores import ObjectStore, open_store
from unet_batch.tiling.box import Box

LABEL_DTYPES = ("uint8", "uint16")


@dataclass(frozen=True, slots=True)
class LabelsWriter:
    """Writes one generation of one mask; a plain value that workers may share.

    Attributes
    ----------
    archive_url: address of the Archive.
    volume_id: the Volume that the mask belongs to.
    name: of the Labels.
    shape_zyx: voxels of the mask, those of the Volume.
    dtype: `uint8` or `uint16`.
    classes: what the voxel values mean.
    key: name of the generation, safe in a path: a digest of all that decides the voxels.
    affine: 16 floats, the Volume's.
    layout: Chunks and Shards; None chooses them from the shape.
    """

    archive_url: str
    volume_id: str
    name: str
    shape_zyx: Shape3
    dtype: str
    classes: tuple[LabelClass, ...]
    key: str
    affine: tuple[float, ...]
    layout: Layout | None = None

    @classmethod
    def for_volume(
        cls,
        archive_url: str,
        info: VolumeInfo,
        *,
        name: str,
        classes: tuple[LabelClass, ...],
        key: str,
        dtype: str = "uint8",
    ) -> LabelsWriter:
        """A writer on the grid of the Volume `info`, with the Layout of its image."""
        layout = Layout(info.chunk_zyx, info.shard_zyx)
        shape = info.shape_zyx
        return cls(archive_url, info.id, name, shape, dtype, classes, key, info.affine, layout)

    @property
    def shard_zyx(self) -> Shape3:
        """Voxels of a Shard."""
        return self._layout.shard_zyx

    def write_regions(self) -> list[Box]:
        """The Boxes to be written: each a whole Shard, clipped to the Volume, in C order."""
        return list(Box.from_shape(self.shape_zyx).split(self.shard_zyx))

    def prepare(self) -> None:
        """Describe the array of this generation; nothing becomes visible. May be repeated.

        Raises SpecError for a name that is unsafe in a path, or a dtype other than those of
        masks.
        """
        if self.dtype not in LABEL_DTYPES:
            raise SpecError(
                f"Labels {self.name!r} of {self.volume_id}: dtype {self.dtype}, expected one of "
                + ", ".join(LABEL_DTYPES)
            )
        document = ome_zarr.array_document(self.shape_zyx, self._encoding, "zyx")
        self._store.put(paths.document(self._array_path), ome_zarr.to_bytes(document))

    def write(self, region: Box, voxels_zyx: NDArray[Any]) -> int:
        """Store one write region, whole and atomically, and return its bytes. May be repeated.

        Raises SpecError where `region` is none of `write_regions`, or where the voxels have
        not its shape and the mask's dtype.
        """
        self._check(region, voxels_zyx)
        content = self._encoding.encode(voxels_zyx)
        self._store.put(self._shard_path(region), content)
        return len(content)

    def missing_regions(self) -> list[Box]:
        """The write regions that are not stored yet; none where the mask is whole."""
        regions = self.write_regions()
        if len(regions) == 1:
            return [] if self._store.exists(self._shard_path(regions[0])) else regions
        stored = set(self._store.list_objects(self._array_path))
        return [region for region in regions if self._shard_path(region) not in stored]

    def publish(self, provenance: Mapping[str, Json]) -> None:
        """Show this generation to readers, list its name, then remove the one it replaces.

        Does nothing but mend the index where this generation is published already. Raises
        ConflictError, and shows nothing, where write regions are missing.
        """
        replaced = self.published_key()
        if replaced != self.key:
            self._check_complete()
            document = ome_zarr.to_bytes(self._document(provenance))
            self._store.put(paths.document(self._labels_path), document)
        self._store.update(
            paths.document(paths.labels_index_path(self.volume_id)), self._with_name_in_index
        )
        if replaced is not None and replaced != self.key:
            # Only what was visible: others may be writing generations of their own.
            self._store.delete_folder(f"{self._labels_path}/{replaced}")

    def published_key(self) -> str | None:
        """The key of the generation that readers see now; None where there is none."""
        path = paths.document(self._labels_path)
        try:
            document = ome_zarr.read_document(self._store.get(path), path)
        except NotFoundError:
            return None
        return str(ome_zarr.own_attributes(document, path).get("key"))

    @property
    def _store(self) -> ObjectStore:
        return open_store(self.archive_url)

    @property
    def _layout(self) -> Layout:
        return self.layout or layout_for(self.shape_zyx)

    @property
    def _encoding(self) -> Encoding:
        return Encoding(self.dtype, self._layout.chunk_zyx, self._layout.shard_zyx, "zstd")

    @property
    def _labels_path(self) -> str:
        return paths.labels_path(self.volume_id, self.name)

    @property
    def _array_path(self) -> str:
        return f"{self._labels_path}/{paths.check_name(self.key, what='key of Labels')}"

    def _shard_path(self, region: Box) -> str:
        cell = (a // n for a, n in zip(region.start, self.shard_zyx, strict=True))
        return paths.shard_path(self._array_path, cell)

    def _check(self, region: Box, voxels_zyx: NDArray[Any]) -> None:
        where = f"Labels {self.name!r} of {self.volume_id}"
        if region not in self.write_regions():
            raise SpecError(
                f"{where}: {region} is none of its write regions; expected whole Shards of "
                f"{self.shard_zyx} voxels, clipped to {self.shape_zyx}"
            )
        if voxels_zyx.shape != region.shape or voxels_zyx.dtype != np.dtype(self.dtype):
            raise SpecError(
                f"{where}: got {voxels_zyx.dtype} voxels of shape {voxels_zyx.shape}, expected "
                f"{self.dtype} of shape {region.shape}"
            )

    def _check_complete(self) -> None:
        missing = self.missing_regions()
        if missing:
            raise ConflictError(
                f"Labels {self.name!r} of {self.volume_id}, generation {self.key}: "
                f"{len(missing)} of {len(self.write_regions())} write regions are not stored, "
                f"the first is {missing[0]}; write them again, then publish"
            )

    def _document(self, provenance: Mapping[str, Json]) -> dict[str, Json]:
        own: dict[str, Json] = {
            "key": self.key,
            "shape_zyx": list(self.shape_zyx),
            "dtype": self.dtype,
            "shard_zyx": list(self.shard_zyx),
            "classes": list(classes_to_json(self.classes)),
            "provenance": dict(provenance),
        }
        affine = np.reshape(self.affine, (4, 4))
        return ome_zarr.labels_document(self.name, self.key, affine, self.classes, own)

    def _with_name_in_index(self, index: bytes | None) -> bytes:
        where = paths.document(paths.labels_index_path(self.volume_id))
        names: list[str] = []
        if index is not None:
            names = ome_zarr.labels_index_names(ome_zarr.read_document(index, where), where)
            if self.name in names:
                return index
        return ome_zarr.to_bytes(ome_zarr.labels_index_document([*names, self.name]))
