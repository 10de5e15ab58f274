"""Labels as a DICOM segmentation (SEG) that viewers lay over the series it refers to, by highdicom.

Two ways to store the same: a label map (one value a voxel; small, but newer than most viewers)
or binary segments (a bit a voxel and class, which all readers know). Frames of nothing are
left out of both.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from unet_batch.errors import GeometryError, VoxelError
from unet_batch.formats.dicom import blank_slices
from unet_batch.formats.dicom_file import load, translated
from unet_batch.formats.dicom_frames import plane_of
from unet_batch.formats.geometry import swap_ras_lps
from unet_batch.formats.scan import Mask, Scan, spacing_of
from unet_batch.planning.volume_info import LabelClass

SegType = Literal["binary", "labelmap"]

logging.getLogger("highdicom").setLevel(logging.ERROR)  # it warns of masks that are empty

_SERIES_NUMBER = 900  # beside a study's own series, which count from 1
_SCHEME = "99UNETBATCH"  # PS3.16, 8.1: private schemes begin with 99
_MAX_LABEL = 64  # PS3.5, 6.2: value representation LO
_MAX_OFF_VOXELS = 0.05


def write_dicom_seg(
    path: Path,
    mask: Mask,
    *,
    name: str,
    kind: SegType = "binary",
    series: Sequence[Path] = (),
) -> None:
    """Write `mask` as a SEG of the images in `series`, or of images that only it speaks of.

    Without `series`, the study that the file refers to is made up from `name` alone: viewers
    show the mask at the right place, but cannot link it to a scan. With it, patient and study
    are those of `series`. Segments are numbered from 1 in the order of the classes' values.

    Raises
    ------
    GeometryError: a sheared grid, or `series` that is not the mask's grid.
    UnreadableScanError: an image of `series` that cannot be read.
    VoxelError: no class but the background.
    """
    classes = [one for one in mask.classes if one.value]
    if not classes:
        raise VoxelError(f"{name}: no class but the background; a segmentation needs one")
    sources = _read_sources(series, mask) if series else _made_up_sources(name, mask)
    numbers = np.zeros(65536, np.uint16)
    numbers[[one.value for one in classes]] = np.arange(1, len(classes) + 1)
    dtype = np.uint8 if len(classes) <= 255 else np.uint16
    voxels = numbers[mask.voxels_zyx].astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty segments, and of odd values in `series`
        seg = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=voxels,
            segmentation_type=kind.upper(),
            segment_descriptions=_descriptions(classes),
            series_instance_uid=_uid(name, "series", voxels),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=_uid(name, f"instance {kind}", voxels),
            instance_number=1,
            manufacturer="unet-batch",
            manufacturer_model_name="unet-batch",
            software_versions=version("unet-batch"),
            device_serial_number="0",
            pixel_measures=_pixel_measures(mask),
            omit_empty_frames=True,
        )
        unfinished = path.with_name(f".{os.getpid()}-{path.name}")
        seg.save_as(unfinished)
    unfinished.replace(path)  # so that a reader never sees half a file


def _descriptions(classes: Sequence[LabelClass]) -> list[Any]:
    """What each segment is: the class's own name, as a code of this program's own scheme."""
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="unet-batch",
        version=version("unet-batch"),
        family=codes.cid7162.ArtificialIntelligence,
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=one.name[:_MAX_LABEL],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=highdicom.sr.CodedConcept(
                f"class-{one.value}", _SCHEME, one.name[:_MAX_LABEL]
            ),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, one in enumerate(classes, start=1)
    ]


def _pixel_measures(mask: Mask) -> Any:
    z, y, x = spacing_of(mask.affine)
    return highdicom.PixelMeasuresSequence(
        pixel_spacing=(y, x), slice_thickness=z, spacing_between_slices=z
    )


def _uid(name: str, what: str, voxels: NDArray[np.unsignedinteger]) -> str:
    """The same for the same mask, so that a second export is no second object."""
    content = hashlib.blake2b(np.ascontiguousarray(voxels).data, digest_size=16).hexdigest()
    return str(generate_uid(entropy_srcs=[name, what, content]))


def _made_up_sources(name: str, mask: Mask) -> list[Any]:
    voxels = np.zeros((1, *mask.voxels_zyx.shape), np.int16)
    return list(blank_slices(Scan(name, voxels, mask.affine, ("MR",), "MR")))


def _read_sources(series: Sequence[Path], mask: Mask) -> list[Any]:
    """The headers of `series`, one for each slice of `mask`, in its order."""
    headers = []
    for path in series:
        with translated(path):
            headers.append((path, load(path, stop_before_pixels=True)))
    shape = mask.voxels_zyx.shape
    if len(headers) != shape[0]:
        raise GeometryError(
            f"{series[0].parent}: {len(headers)} images for a mask of {shape[0]} slices; a SEG "
            "refers to a classic series, one file a slice"
        )
    to_index = np.linalg.inv(swap_ras_lps(mask.affine))
    placed: dict[int, Any] = {}
    for path, header in headers:
        plane = plane_of(header, (int(header.Rows), int(header.Columns)), path, label=path.name)
        z, y, x = to_index[:3, :3] @ plane.position + to_index[:3, 3]
        off = max(abs(z - round(z)), abs(y), abs(x))
        if off > _MAX_OFF_VOXELS or plane.shape_yx != shape[1:] or round(z) in placed:
            raise GeometryError(
                f"{path}: its first pixel is voxel ({z:.3g}, {y:.3g}, {x:.3g}) of the mask "
                f"(z, y, x), size {plane.shape_yx}, expected {shape[1:]}: not the series that "
                "was segmented"
            )
        placed[round(z)] = header
    return [placed[k] for k in sorted(placed)]
