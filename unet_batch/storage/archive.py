"""Archive: a folder or bucket of Volumes, as a mapping of ids, and the way scans get into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from unet_batch.errors import (
    ConflictError,
    GeometryError,
    NotFoundError,
    ScanError,
    SpecError,
    StoreError,
)
from unet_batch.formats.deidentify import Pseudonyms
from unet_batch.formats.scan import Scan
from unet_batch.planning.volume_info import Json, VolumeInfo
from unet_batch.side_by_side import each
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.catalog import Catalog
from unet_batch.storage.cleaning import GRACE_S, Cleaner
from unet_batch.storage.content import Content, content_of, stored_dtype
from unet_batch.storage.encoding import Encoding
from unet_batch.storage.keys import pseudonym_key
from unet_batch.storage.layout import Layout, layout_for
from unet_batch.storage.ledger import Ledger
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.outside import content_of_outside
from unet_batch.storage.quarantine import Quarantine
from unet_batch.storage.record import info_to_json
from unet_batch.storage.stores import open_store
from unet_batch.storage.volume import Labels, NotInArchiveError, Volume, read_info
from unet_batch.tiling.box import Box

FORMAT = "unet-batch archive"
FORMAT_VERSION = 1


def open_archive(url: str | Path, *, create: bool = False) -> Archive:
    """The Archive at `url`: a path, file://, memory://, s3://, gs:// or az://.

    With `create` an Archive is begun where none is; several may do so at once. Raises
    NotFoundError where there is none, StoreError where it is of a kind this version cannot read.
    """
    store = open_store(url)
    if create:
        document: dict[str, Json] = {"format": FORMAT, "version": FORMAT_VERSION}
        with suppress(ConflictError):  # it is there already: checked below
            store.put_if_absent(paths.ARCHIVE_DOCUMENT, ome_zarr.to_bytes(document))
    _check_format(store)
    return Archive(store)


class Archive(Mapping[str, Volume]):
    """The Volumes at one address, by id. Open one with `open_archive`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __reduce__(self) -> tuple[type[Archive], tuple[ObjectStore]]:
        return Archive, (self._store,)  # without what the Catalog remembers

    @property
    def url(self) -> str:
        """The address, absolute, fit for workers on other machines where they can reach it."""
        return self._store.url

    @property
    def name(self) -> str:
        """The last part of the address: what metrics and dashboards call the Archive."""
        return self.url.rstrip("/").rpartition("/")[2]

    @cached_property
    def catalog(self) -> Catalog:
        """The table of all Volumes."""
        return Catalog(self._store)

    def pseudonyms(self) -> Pseudonyms:
        """What identifiers become here; see `storage.keys` for the key and its errors."""
        return Pseudonyms(pseudonym_key(self._store))

    @cached_property
    def quarantine(self) -> Quarantine:
        """The scans that could not become Volumes, and why."""
        return Quarantine(self._store)

    def __getitem__(self, volume_id: str) -> Volume:
        return Volume(self.url, self.info(volume_id))

    def __iter__(self) -> Iterator[str]:
        return iter(self.catalog.ids())

    def __len__(self) -> int:
        return len(self.catalog.ids())

    def __contains__(self, volume_id: object) -> bool:
        return isinstance(volume_id, str) and self._store.exists(
            paths.document(paths.volume_path(volume_id))
        )

    def info(self, volume_id: str) -> VolumeInfo:
        """What is stored of one Volume, with the Labels it has now. Raises NotFoundError."""
        try:
            return read_info(self._store, volume_id)
        except NotFoundError as error:
            raise NotInArchiveError(
                f"no Volume {volume_id!r} in {self.url}; `unet-batch ls` lists those it has"
            ) from error

    def cleaner(self, *, grace_s: float = GRACE_S) -> Cleaner:
        """What finds and removes leftovers that nobody has written to for `grace_s` seconds."""
        return Cleaner(self._store, grace_s=grace_s)

    def ledger(self, job_id: str) -> Ledger:
        """The record of one Job on this Archive."""
        return Ledger(self._store, job_id)

    def select(self, patterns: Sequence[str], where: str | None = None) -> list[VolumeInfo]:
        """Rows of the Catalog whose id matches one of the glob `patterns`, and `where`; by id.

        `where` is a condition such as `modality = 'CT' and spacing_z <= 3`. Raises SpecError
        where a pattern without a wildcard names no Volume, or `where` cannot be read.
        """
        self.check_patterns(patterns)
        return self.catalog.rows(patterns, where)

    def labels_of(self, infos: Sequence[VolumeInfo], name: str) -> list[Labels | None]:
        """The published Labels `name` of each Volume; None where it has none."""
        return each(lambda info: Volume(self.url, info).labels.get(name), infos)

    def check_patterns(self, patterns: Sequence[str]) -> None:
        """Raise SpecError where a pattern without a wildcard names no Volume."""
        exact = [pattern for pattern in patterns if not set(pattern) & set("*?[")]
        for pattern in sorted(self.catalog.unlisted(exact)):
            raise SpecError(
                f"no Volume {pattern!r} in {self.url}; `unet-batch ls` lists those it has"
            )

    def write_scan(
        self,
        scan: Scan,
        *,
        source: Mapping[str, Json],
        warnings: Sequence[str] = (),
        layout: Layout | None = None,
        content: Content | None = None,
        list_it: bool = True,
    ) -> VolumeInfo:
        """Store `scan` as the Volume `scan.name`, list it in the Catalog, return its row.

        The same scan again changes nothing, but that one taken in place can be copied now, and
        be found at another place. `source` says where it came from, `warnings` what was odd
        about it; `layout` overrules the one chosen from the shape; `content` spares looking at
        all voxels again; whoever writes many lists them together and says `list_it=False`.
        Raises SpecError for a name unsafe in a path, ScanError for voxels that cannot be stored,
        ConflictError where the id holds another scan.
        """
        check_storable(scan)
        content = content or content_of_any(scan)
        info = _describe(scan, content, layout, warnings)
        published = self._published(scan.name)
        if published is None:
            self._write_voxels(scan, info)
            published = self._publish(info, source)
        if published.content_hash != info.content_hash:
            self._store.delete_folder(_array_path(info))
            raise ConflictError(
                f"{self.url}: the id {scan.name!r} holds another scan (content "
                f"{published.content_hash[:12]}, given {info.content_hash[:12]}); give one another "
                "name"
            )
        if published.outside not in (None, info.outside):
            published = self._move(scan, info, source)
        if list_it:
            self.catalog.append([published])
        return published

    def _move(self, scan: Scan, info: VolumeInfo, source: Mapping[str, Json]) -> VolumeInfo:
        """Note that voxels lie elsewhere now: in the Archive, or in another image outside."""
        self._write_voxels(scan, info)
        document = ome_zarr.to_bytes(_volume_document(info, source))
        self._store.update(paths.document(paths.volume_path(info.id)), lambda _: document)
        return read_info(self._store, info.id)

    def _published(self, volume_id: str) -> VolumeInfo | None:
        try:
            return read_info(self._store, volume_id)
        except NotFoundError:
            return None

    def _write_voxels(self, scan: Scan, info: VolumeInfo) -> None:
        """Store the voxels, Shard by Shard; nothing where they stay outside."""
        if info.outside is not None:
            return
        path, voxels_czyx = _array_path(info), np.asarray(scan.voxels_czyx, dtype=info.dtype)
        shard = (1, *info.shard_zyx)
        encoding = Encoding(info.dtype, (1, *info.chunk_zyx), shard, "blosc")
        document = ome_zarr.array_bytes(voxels_czyx.shape, encoding, "czyx")
        self._store.put(paths.document(path), document)
        for region in Box.from_shape(voxels_czyx.shape).split(shard):
            cell = (a // n for a, n in zip(region.start, shard, strict=True))
            content = encoding.encode(voxels_czyx[region.slices])
            self._store.put(paths.shard_path(path, cell), content)

    def _publish(self, info: VolumeInfo, source: Mapping[str, Json]) -> VolumeInfo:
        """Show the Volume; where another writer was first, return what that one showed."""
        document = ome_zarr.to_bytes(_volume_document(info, source))
        path = paths.document(paths.volume_path(info.id))
        try:
            self._store.put_if_absent(path, document)
        except ConflictError:
            return read_info(self._store, info.id)
        return info


def _check_format(store: ObjectStore) -> None:
    where = f"{store.url}/{paths.ARCHIVE_DOCUMENT}"
    try:
        content = store.get(paths.ARCHIVE_DOCUMENT)
    except NotFoundError as error:
        raise NotFoundError(
            f"no Archive at {store.url}; begin one with "
            f"`unet-batch ingest SOURCE --archive {store.url}`"
        ) from error
    document = ome_zarr.read_document(content, where)
    if document.get("format") != FORMAT:
        raise StoreError(f"{where}: expected format {FORMAT!r}, got {document.get('format')!r}")
    if document.get("version") != FORMAT_VERSION:
        raise StoreError(
            f"{where}: this Archive is of version {document.get('version')!r}, this program reads "
            f"version {FORMAT_VERSION}; install the version of unet-batch that wrote it"
        )


def check_storable(scan: Scan) -> None:
    """Raise ScanError for voxels that an Archive cannot hold, GeometryError for a bad affine."""
    _check_affine(scan)
    voxels = scan.voxels_czyx
    where = f"scan {scan.name!r}"
    if voxels.ndim != 4 or not voxels.size:
        raise ScanError(f"{where}: voxels of shape {voxels.shape}, expected (c, z, y, x), none 0")
    if len(scan.channels) != voxels.shape[0]:
        raise ScanError(
            f"{where}: {len(scan.channels)} channel names for {voxels.shape[0]} channels"
        )
    if voxels.dtype.kind not in "biuf" or voxels.dtype.itemsize > 8:
        raise ScanError(f"{where}: voxels of type {voxels.dtype}, expected integers or floats")


def content_of_any(scan: Scan) -> Content:
    """The Content of a Scan in memory, or of one taken in place. Raises as their reading."""
    return content_of(scan) if scan.outside is None else content_of_outside(scan, scan.outside)


def _check_affine(scan: Scan) -> None:
    affine = scan.affine
    upright = affine.shape == (4, 4) and bool(np.isfinite(affine).all())
    if not upright or not np.linalg.det(affine[:3, :3]):
        raise GeometryError(
            f"scan {scan.name!r}: expected a finite, invertible 4x4 affine, got {affine.tolist()}"
        )


def _array_path(info: VolumeInfo) -> str:
    return f"{paths.volume_path(info.id)}/{paths.voxels_name(info.content_hash)}"


def _volume_document(info: VolumeInfo, source: Mapping[str, Json]) -> dict[str, Json]:
    own: dict[str, Json] = {**info_to_json(info), "source": dict(source)}
    if info.outside is not None:
        return ome_zarr.outside_document(own)
    return ome_zarr.image_document(info, paths.voxels_name(info.content_hash), own)


def _describe(
    scan: Scan, content: Content, layout: Layout | None, warnings: Sequence[str]
) -> VolumeInfo:
    channels, z, y, x = scan.voxels_czyx.shape
    layout = layout or layout_for((z, y, x))
    return VolumeInfo(
        id=scan.name,
        shape_czyx=(channels, z, y, x),
        dtype=stored_dtype(scan.voxels_czyx.dtype).name,
        spacing_mm=scan.spacing_mm,
        affine=tuple(float(n) for n in scan.affine.ravel()),
        chunk_zyx=layout.chunk_zyx,
        shard_zyx=layout.shard_zyx,
        content_hash=content.content_hash,
        channels=scan.channels,
        statistics=content.statistics,
        modality=scan.modality,
        warnings=tuple(warnings),
        metadata=dict(scan.metadata),
        outside=scan.outside,
    )
