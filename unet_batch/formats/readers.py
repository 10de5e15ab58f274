"""One way to read any file that holds one scan, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.dicom import read_dicom_series
from unet_batch.formats.itk import read_itk
from unet_batch.formats.kinds import kind_of
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.ngff import is_zarr, read_ome_zarr
from unet_batch.formats.nifti import read_nifti
from unet_batch.formats.pictures import picture_affine, read_picture
from unet_batch.formats.scan import Scan
from unet_batch.formats.tiff import read_tiff


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What files leave open, or what a reader does only when it is asked to.

    Attributes
    ----------
    spacing_mm: voxel size (z, y, x) of pictures and TIFF, which rarely state one.
    resample_tilt: make leaning DICOM stacks straight instead of refusing them.
    stack_pictures: the pictures of a folder are the slices of one Volume.
    masks: how the mask files of each Labels name are read.
    """

    spacing_mm: tuple[float, float, float] | None = None
    resample_tilt: bool = False
    stack_pictures: bool = False
    masks: Mapping[str, MaskRules] = field(default_factory=dict)


def read_image(path: Path, options: ReadOptions, *, name: str) -> Scan:
    """The Scan in one file, or OME-Zarr folder. Raises ScanError, naming it."""
    kind = "ome-zarr" if path.is_dir() and is_zarr(path) else kind_of(path)
    if kind == "nifti":
        return read_nifti(path, name=name)
    if kind == "itk":
        return read_itk(path, name=name)
    if kind == "tiff":
        return read_tiff(path, name=name, spacing_mm=options.spacing_mm)
    if kind == "picture":
        return read_picture(path, name=name, spacing_mm=options.spacing_mm)
    if kind == "ome-zarr":
        return read_ome_zarr(path, name=name)
    if kind == "dicom":
        return read_dicom_series([path], name=name, resample_tilt=options.resample_tilt)
    raise UnreadableScanError(f"{path}: of no known kind; expected a scan")


def read_channels(
    paths: Sequence[Path], channels: Sequence[str], options: ReadOptions, *, name: str
) -> Scan:
    """One Scan of all files; each must hold one channel on the first one's grid."""
    scans = [read_image(path, options, name=name) for path in paths]
    first = scans[0]
    for path, scan in zip(paths, scans, strict=True):
        same = np.allclose(scan.affine, first.affine, rtol=0, atol=1e-3)
        if scan.voxels_czyx.shape != (1, *first.voxels_czyx.shape[1:]) or not same:
            raise GeometryError(
                f"{path}: channels of one Volume share one grid; expected 1 channel of "
                f"{first.voxels_czyx.shape[1:]} voxels with affine\n{first.affine}\n"
                f"got {scan.voxels_czyx.shape} with affine\n{scan.affine}"
            )
    voxels = np.concatenate([scan.voxels_czyx for scan in scans])
    odd = tuple(dict.fromkeys(w for scan in scans for w in scan.warnings))
    return replace(first, voxels_czyx=voxels, channels=tuple(channels), warnings=odd)


def read_stack(paths: Sequence[Path], options: ReadOptions, *, name: str) -> Scan:
    """One Scan whose z-slices are pictures, in the order of the numbers in their names."""
    ordered = sorted(paths, key=_by_numbers)
    scans = [read_image(path, options, name=name) for path in ordered]
    first = scans[0]
    for path, scan in zip(ordered, scans, strict=True):
        same = scan.channels == first.channels and scan.voxels_czyx.shape[1] == 1
        if not same or scan.voxels_czyx.shape != first.voxels_czyx.shape:
            raise VoxelError(
                f"{path}: slices of one stack are alike; expected {first.channels} of "
                f"{first.voxels_czyx.shape}, got {scan.channels} of {scan.voxels_czyx.shape}"
            )
    voxels = np.concatenate([scan.voxels_czyx for scan in scans], axis=1)
    odd = tuple(dict.fromkeys(w for scan in scans for w in scan.warnings))
    affine = picture_affine(options.spacing_mm) if options.spacing_mm else first.affine
    return replace(first, voxels_czyx=voxels, affine=affine, warnings=odd)


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """A sorting key by which `slice9` comes before `slice10`."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
