"""Any file, or folder, that says which voxels are what, to Masks beside a Scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from unet_batch.errors import UnreadableScanError, VoxelError
from unet_batch.formats.contours import read_rtstruct
from unet_batch.formats.dicom_file import Place, is_dicom, load, translated
from unet_batch.formats.dicom_seg import read_dicom_seg
from unet_batch.formats.kinds import kind_of
from unet_batch.formats.labels import MaskRules, as_mask
from unet_batch.formats.ngff import is_zarr
from unet_batch.formats.pictures import read_picture_mask
from unet_batch.formats.readers import ReadOptions, read_image
from unet_batch.formats.remote import AnyPath
from unet_batch.formats.scan import Mask, Scan

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # PS3.4, B.5: newer than pydicom's dictionary
MAX_OBJECTS = 100_000


def read_masks(place: Place, scan: Scan, labels: str, rules: MaskRules) -> dict[str, Mask]:
    """The Masks in `place` by Labels name: `labels`, and more where segments overlap.

    Pictures and TIFF, which know no patient, lie on the grid of `scan`; all others where
    they say. Raises ScanError, naming the file.
    """
    if not isinstance(place, Path) or (place.is_file() and _holds_dicom(place)):
        return _dicom_masks(place, scan, labels, rules)
    if is_object_folder(place):
        return {labels: _objects(place, scan, rules)}
    if kind_of(place) == "picture":
        pixels = read_picture_mask(place)
        return {labels: as_mask(pixels[None], scan.affine, rules, where=str(place))}
    stored = read_image(place, ReadOptions(), name=labels)
    if len(stored.voxels_czyx) > 1:
        raise VoxelError(
            f"{place}: a mask has one channel, this has {len(stored.voxels_czyx)}; "
            "write one value a class into one 3-D file"
        )
    affine = scan.affine if kind_of(place) == "tiff" else stored.affine
    return {labels: as_mask(stored.voxels_czyx[0], affine, rules, where=str(place))}


def is_object_folder(path: AnyPath) -> bool:
    """Whether `path` is a folder of pictures, as of one mask an object."""
    if not path.is_dir() or is_zarr(path):
        return False
    return any(kind_of(file) in {"picture", "tiff"} for file in path.iterdir() if file.is_file())


def _holds_dicom(path: Path) -> bool:
    return kind_of(path) == "dicom" or (kind_of(path) is None and is_dicom(path))


def _dicom_masks(place: Place, scan: Scan, labels: str, rules: MaskRules) -> dict[str, Mask]:
    with translated(place):
        class_uid = load(place, stop_before_pixels=True, specific_tags=["SOPClassUID"]).SOPClassUID
    if class_uid in {SegmentationStorage, LABEL_MAP_STORAGE}:
        return read_dicom_seg(place, scan.affine, rules, labels=labels)
    if class_uid == RTStructureSetStorage:
        _, z, y, x = scan.voxels_czyx.shape
        return read_rtstruct(place, scan.affine, (z, y, x), rules, labels=labels)
    raise UnreadableScanError(
        f"{place}: expected a DICOM segmentation (SEG) or structure set (RTSTRUCT), it is a "
        f"{getattr(class_uid, 'name', class_uid)}"
    )


def _objects(folder: Path, scan: Scan, rules: MaskRules) -> Mask:
    """The union of one mask an object: 1 where any of them holds, on the grid of `scan`."""
    _, z, y, x = scan.voxels_czyx.shape
    union = np.zeros((z, y, x), np.uint8)
    files = sorted(f for f in folder.iterdir() if kind_of(f) in {"picture", "tiff"})
    if len(files) > MAX_OBJECTS:
        raise VoxelError(f"{folder}: {len(files)} masks, at most {MAX_OBJECTS} are read")
    for file in files:
        drawn = _object(file)
        if drawn.shape != union.shape:
            raise VoxelError(f"{file}: {drawn.shape} pixels (z, y, x); the scan has {union.shape}")
        union[drawn != 0] = 1
    named = MaskRules(class_names=rules.class_names or {1: "object"})
    return as_mask(union, scan.affine, named, where=str(folder))


def _object(file: Path) -> NDArray[np.generic]:
    if kind_of(file) == "picture":
        return read_picture_mask(file)[None]
    scan = read_image(file, ReadOptions(), name=file.name)
    voxels: NDArray[np.generic] = scan.voxels_czyx[0]
    return voxels
