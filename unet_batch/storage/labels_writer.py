"""LabelsWriter: a mask is written Shard by Shard out of sight, then shown by one atomic put.

    labels/liver/zarr.json ──path──> labels/liver/<key>/     what readers see
                                     labels/liver/<other>/   being written, or left by a crash

`key` names a generation: the same key always means the same voxels, so every step may be
repeated after a crash, by any process, and ends in the same bytes. A mask published under
another key stays whole and visible until the put. Probabilities, where a generation has them,
are shown by the same put.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import ConflictError, DamagedError, NotFoundError, SpecError
from unet_batch.pickling import by_fields
from unet_batch.planning.volume_info import Json, LabelClass, VolumeInfo
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.encoding import Encoding
from unet_batch.storage.layout import Layout, Shape3, layout_for
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.probabilities import ProbabilitiesWriter, probabilities_path
from unet_batch.storage.record import classes_to_json
from unet_batch.storage.stored_array import StoredArray
from unet_batch.storage.stores import open_store
from unet_batch.tiling.box import Box

LABEL_DTYPES = ("uint8", "uint16")


@by_fields
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
    probabilities: names of the classes whose probabilities come with the mask; none: no image.
    stage: name of labels on their way to those of `key`, kept beside them; empty: those.
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
    probabilities: tuple[str, ...] = ()
    stage: str = ""

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
        probabilities: tuple[str, ...] = (),
    ) -> LabelsWriter:
        """A writer on the grid of the Volume `info`, with the Layout of its image."""
        return cls(
            archive_url,
            info.id,
            name,
            info.shape_zyx,
            dtype,
            classes,
            key,
            info.affine,
            Layout(info.chunk_zyx, info.shard_zyx),
            probabilities,
        )

    @property
    def num_probabilities(self) -> int:
        """Classes whose probabilities come with the mask."""
        return len(self.probabilities)

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
        document = ome_zarr.array_bytes(self.shape_zyx, self._encoding, "zyx")
        self._store.put(paths.document(self._array_path), document)
        if self.probabilities:
            self._probabilities.prepare()

    def write(
        self, region: Box, voxels_zyx: NDArray[Any], probabilities_czyx: NDArray[Any] | None = None
    ) -> int:
        """Store one write region, whole and atomically, and return its bytes. May be repeated.

        Raises SpecError where `region` is none of `write_regions`, or where the voxels have
        not its shape and the mask's dtype.
        """
        self._check(region, voxels_zyx)
        content = self._encoding.encode(voxels_zyx)
        self._store.put(self._shard_path(region), content)
        if not self.probabilities or probabilities_czyx is None:
            return len(content)
        return len(content) + self._probabilities.write(region, probabilities_czyx)

    def staged(self, stage: str) -> LabelsWriter:
        """A writer of labels on their way to this generation; readers never see them.

        Probabilities that it is given go where those of this generation belong.
        """
        return replace(self, stage=stage)

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of `box` (z, y, x), whose regions are all written and prepared.

        Raises NotFoundError or StoreError that name the array.
        """
        stored = StoredArray(self.archive_url, self._array_path, self.shape_zyx, self.dtype)
        return stored[box.slices]

    def discard(self) -> None:
        """Remove the voxels of a stage. May be repeated. Raises ValueError where it is none."""
        if not self.stage:
            raise ValueError(f"{self._array_path} is no stage: `publish` shows and replaces it")
        self._store.delete_folder(self._array_path)

    def missing_regions(self) -> list[Box]:
        """The write regions that are not stored yet; none where the mask is whole."""
        regions = self.write_regions()
        missing = set(self._probabilities.missing_regions(regions)) if self.probabilities else set()
        if len(regions) == 1:
            is_there = self._store.exists(self._shard_path(regions[0])) and not missing
            return [] if is_there else regions
        stored = set(self._store.list_objects(self._array_path))
        return [
            region
            for region in regions
            if self._shard_path(region) not in stored or region in missing
        ]

    def publish(self, provenance: Mapping[str, Json]) -> None:
        """Show this generation to readers, list its name, then remove the one it replaces.

        Does nothing but mend the index where this generation is published already. Raises
        ConflictError, and shows nothing, where write regions are missing.
        """
        replaced = self.published_key()
        if replaced != self.key:
            self.check_complete()
            document = ome_zarr.to_bytes(self._document(provenance))
            self._store.put(paths.document(self._labels_path), document)
        self._store.update(
            paths.document(paths.labels_index_path(self.volume_id)), self._with_name_in_index
        )
        if replaced is not None and replaced != self.key:
            # Only what was visible: others may be writing generations of their own.
            replaced_path = f"{self._labels_path}/{replaced}"
            self._store.delete_folder(replaced_path)
            self._store.delete_folder(probabilities_path(replaced_path))
            for name in self._store.list_folders(self._labels_path):
                if name.startswith(f"{replaced}."):  # a level of its pyramid
                    self._store.delete_folder(f"{self._labels_path}/{name}")

    def check_complete(self) -> None:
        """Raises ConflictError where write regions are missing."""
        missing = self.missing_regions()
        if missing:
            raise ConflictError(
                f"Labels {self.name!r} of {self.volume_id}, generation {self.key}: "
                f"{len(missing)} of {len(self.write_regions())} write regions are not stored, "
                f"the first is {missing[0]}; write them again, then publish"
            )

    def published_key(self) -> str | None:
        """The key of the generation that readers see now; None where there is none.

        A document that a power cut left empty shows nothing either: it is written anew.
        """
        path = paths.document(self._labels_path)
        try:
            document = ome_zarr.read_document(self._store.get(path), path)
        except (NotFoundError, DamagedError):
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
    def _generation_path(self) -> str:
        return f"{self._labels_path}/{paths.check_name(self.key, what='key of Labels')}"

    @property
    def _array_path(self) -> str:
        return f"{self._generation_path}-{self.stage}" if self.stage else self._generation_path

    @property
    def _probabilities(self) -> ProbabilitiesWriter:
        path = probabilities_path(self._generation_path)
        names, shape = self.probabilities, self.shape_zyx
        return ProbabilitiesWriter(self.archive_url, path, names, shape, self._layout, self.affine)

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

    def _document(self, provenance: Mapping[str, Json]) -> dict[str, Json]:
        own: dict[str, Json] = {
            "key": self.key,
            "shape_zyx": list(self.shape_zyx),
            "dtype": self.dtype,
            "shard_zyx": list(self.shard_zyx),
            "classes": list(classes_to_json(self.classes)),
            "provenance": dict(provenance),
            **({"probabilities": list(self.probabilities)} if self.probabilities else {}),
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
