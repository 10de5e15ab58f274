"""Enhanced DICOM: every frame at its own place with its own slope, in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, JPEGLSLossless, RLELossless

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.dicom import blank_slices, read_dicom_series, sort_into_series
from unet_batch.formats.scan import Scan

OBLIQUE = np.array([[0.1, 0.2, -0.9, 9], [-0.6, -1.9, -0.1, 8], [2.9, -0.4, 0.1, 7], [0, 0, 0, 1]])


def orthogonal(affine: Any) -> Any:
    """The nearest affine without shear, right-handed in x, y, z."""
    u, _, v = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    made = affine.copy()
    made[:3, :3] = u @ v * np.linalg.norm(affine[:3, :3], axis=0)
    return made


def scan_of(shape: tuple[int, ...] = (4, 5, 6)) -> Scan:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(1, *shape) - 50
    return Scan("example", voxels, orthogonal(OBLIQUE), ("MR",), "MR")


def item(**attributes: Any) -> Any:
    made = Dataset()
    for key, value in attributes.items():
        setattr(made, key, value)
    return [made]


def enhanced(
    path: Path, scan: Scan, *, order: list[int], slopes: list[float] | None = None
) -> Path:
    """`scan` as one file, its frames in `order`; orientation is shared, all else is per frame."""
    slices = list(blank_slices(scan))
    image = slices[0]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=image.ImageOrientationPatient)
    shared.PixelMeasuresSequence = item(PixelSpacing=image.PixelSpacing, SliceThickness=1)
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=slices[k].ImagePositionPatient)
        frame.PixelValueTransformationSequence = item(
            RescaleSlope=(slopes or [1.0] * len(slices))[k], RescaleIntercept=0
        )
        frames.append(frame)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                    "RescaleSlope", "RescaleIntercept", "SliceThickness"):  # fmt: skip
        delattr(image, keyword)
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = frames
    image.NumberOfFrames = len(order)
    image.PixelData = np.ascontiguousarray(scan.voxels_czyx[0][order], dtype="<i2").tobytes()
    image.save_as(path, enforce_file_format=True)
    return path


@settings(max_examples=15)
@given(order=st.permutations(range(4)))
def test_frames_lie_where_they_say_in_any_order(order: list[int], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("mr") / "a.dcm"
    scan = read_dicom_series([enhanced(path, scan_of(), order=order)])
    assert np.array_equal(scan.voxels_czyx, scan_of().voxels_czyx)
    assert np.abs(scan.affine - scan_of().affine).max() < 1e-9
    assert scan.voxels_czyx.dtype == np.int16


def test_every_frame_has_its_own_slope(tmp_path: Path) -> None:
    slopes = [0.5, 1.0, 2.0, 0.25]
    path = enhanced(tmp_path / "a.dcm", scan_of(), order=[2, 0, 1, 3], slopes=slopes)
    expected = scan_of().voxels_czyx * np.reshape(slopes, (1, 4, 1, 1))
    assert np.array_equal(read_dicom_series([path]).voxels_czyx, expected)


def test_as_many_frames_at_every_place_are_channels(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "a.dcm", scan_of(), order=[0, 0, 1, 1, 2, 2, 3, 3])
    scan = read_dicom_series([path])
    assert scan.channels == ("MR_1", "MR_2")
    assert np.array_equal(scan.voxels_czyx, np.repeat(scan_of().voxels_czyx, 2, axis=0))
    assert "2 frames at every place" in scan.warnings[0]
    with pytest.raises(GeometryError, match="at the same place"):
        read_dicom_series([enhanced(tmp_path / "b.dcm", scan_of(), order=[0, 0, 1, 2, 3])])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_frames_are_the_same(syntax: str, tmp_path: Path) -> None:
    path = enhanced(tmp_path / "a.dcm", scan_of((4, 16, 16)), order=[0, 1, 2, 3])
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax)
    dataset.save_as(path)
    assert np.array_equal(read_dicom_series([path]).voxels_czyx, scan_of((4, 16, 16)).voxels_czyx)


def test_one_file_is_one_series(tmp_path: Path) -> None:
    files = [enhanced(tmp_path / "a.dcm", scan_of(), order=[0, 1, 2, 3])]
    assert sort_into_series(files).series == ((tmp_path / "a.dcm",),)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "a.dcm", scan_of((5, 5, 6)), order=[0, 1, 3, 4])
    with pytest.raises(GeometryError, match=r"missing slices \(1\) between a\.dcm frame 2"):
        read_dicom_series([path])


def test_groups_that_do_not_fit_the_frames_are_named(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "a.dcm", scan_of(), order=[0, 1, 2, 3])
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[0]
    dataset.save_as(path)
    with pytest.raises(UnreadableScanError, match="4 frames, 3 functional groups"):
        read_dicom_series([path])
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path)
    with pytest.raises(VoxelError, match="4 frames in one file without functional groups"):
        read_dicom_series([path])


def test_an_absurd_number_of_compressed_pixels_is_refused(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "a.dcm", scan_of((4, 16, 16)), order=[0, 1, 2, 3])
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.Rows = dataset.Columns = 60000
    dataset.save_as(path)
    with pytest.raises(UnreadableScanError, match="promises 28800000000 bytes"):
        read_dicom_series([path])
