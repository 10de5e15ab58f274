"""Gantry tilt: shifting slices in their planes undoes it, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from unet_batch.errors import GeometryError
from unet_batch.formats.dicom import read_dicom_series, write_dicom_series
from unet_batch.formats.scan import Scan
from unet_batch.formats.tilt import straighten

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]


def test_whole_voxel_drift_is_undone_exactly() -> None:
    voxels = np.zeros((1, 3, 4, 5), np.int16)
    voxels[0, :, 1, 2] = [7, 8, 9]
    leaning = np.array([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    leaning[:3, 2] = [-1, 4, 3]  # one voxel back along x, two on along y, a slice
    straight, affine = straighten(voxels, leaning)
    assert straight.shape == (1, 3, 8, 7)
    assert np.allclose(affine[:3, 2], [0, 0, 3])
    for k, value in enumerate((7, 8, 9)):
        (_, y, x), *others = np.argwhere(straight[0] == value)
        place = (affine @ [x, y, k, 1])[:3]
        assert np.allclose(place, (leaning @ [2, 1, k, 1])[:3])
        assert not others


def series(folder: Path, lean_mm: float) -> list[Path]:
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(1, 4, 5, 6)
    paths = write_dicom_series(folder, Scan("s", voxels, LPS * [3, 1, 1, 1], ("CT",), "CT"))
    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y + k * lean_mm, z]
        dataset.save_as(path)
    return paths


def test_tilt_is_refused_with_numbers_or_resampled_aloud(tmp_path: Path) -> None:
    paths = series(tmp_path / "ct", lean_mm=1.0)
    with pytest.raises(GeometryError, match=r"gantry tilt of 18\.4 degrees.*resample_tilt"):
        read_dicom_series(paths)
    scan = read_dicom_series(paths, resample_tilt=True)
    assert scan.voxels_czyx.shape == (1, 4, 8, 6)
    assert "resampled: the gantry was tilted by 18.4 degrees" in scan.warnings
    assert np.allclose(scan.affine[:3, :3], (LPS * [3, 1, 1, 1])[:3, :3])
    assert np.array_equal(scan.voxels_czyx[0, 3, 3:8], np.arange(90, 120).reshape(5, 6))


def test_a_straight_series_is_left_alone(tmp_path: Path) -> None:
    paths = series(tmp_path / "ct", lean_mm=0.02)
    once, twice = (read_dicom_series(paths, resample_tilt=flag) for flag in (False, True))
    assert np.array_equal(once.voxels_czyx, twice.voxels_czyx)
    assert twice.warnings == ()
