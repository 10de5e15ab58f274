"""DICOM SEG out: highdicom and dciodvfy read it, empty frames are left out, nothing moves."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from unet_batch.errors import GeometryError, VoxelError
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.dicom_seg import read_dicom_seg
from unet_batch.formats.dicom_seg_writer import SegType, write_dicom_seg
from unet_batch.formats.geometry import onto_grid, reverse_index_order, swap_ras_lps
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.phantom import phantom
from unet_batch.formats.scan import Mask

SHAPE = (12, 14, 16)
SCAN, MASK = phantom(1, shape_zyx=SHAPE)
KINDS: list[SegType] = ["binary", "labelmap"]


@pytest.mark.parametrize("kind", KINDS)
def test_highdicom_reads_the_same_voxels_at_the_same_place(kind: SegType, tmp_path: Path) -> None:
    write_dicom_seg(tmp_path / "a.dcm", MASK, name="a", kind=kind)
    volume = highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True)
    placed = onto_grid(
        Mask(
            volume.array.astype(np.uint8),
            swap_ras_lps(volume.affine),
            MASK.classes,
        ),
        MASK.affine,
        SHAPE,
    )
    assert np.array_equal(placed.voxels_zyx, MASK.voxels_zyx)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_with_its_class_names(kind: SegType, tmp_path: Path) -> None:
    write_dicom_seg(tmp_path / "a.dcm", MASK, name="a", kind=kind)
    again = read_dicom_seg(tmp_path / "a.dcm", MASK.affine, MaskRules(), labels="a")["a"]
    assert np.array_equal(onto_grid(again, MASK.affine, SHAPE).voxels_zyx, MASK.voxels_zyx)
    assert [c.name for c in again.classes] == [c.name for c in MASK.classes]


def test_empty_frames_are_left_out(tmp_path: Path) -> None:
    voxels = np.zeros_like(MASK.voxels_zyx)
    voxels[5:7, 3:6, 2:4] = 3
    write_dicom_seg(tmp_path / "a.dcm", replace(MASK, voxels_zyx=voxels), name="a")
    assert pydicom.dcmread(tmp_path / "a.dcm").NumberOfFrames == 2


def test_it_refers_to_the_series_it_was_made_of(tmp_path: Path) -> None:
    series = write_dicom_series(tmp_path / "ct", SCAN)
    write_dicom_seg(tmp_path / "a.dcm", MASK, name="a", series=series[::-1])
    seg, image = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(series[0])
    assert seg.StudyInstanceUID == image.StudyInstanceUID
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    assert seg.FrameOfReferenceUID == image.FrameOfReferenceUID
    again = read_dicom_seg(tmp_path / "a.dcm", MASK.affine, MaskRules(), labels="a")["a"]
    assert np.array_equal(onto_grid(again, MASK.affine, SHAPE).voxels_zyx, MASK.voxels_zyx)


def test_another_series_is_refused(tmp_path: Path) -> None:
    moved = SCAN.affine.copy()
    moved[:3, 3] += 5
    series = write_dicom_series(tmp_path / "ct", replace(SCAN, affine=moved))
    with pytest.raises(GeometryError, match="not the series that was segmented"):
        write_dicom_seg(tmp_path / "a.dcm", MASK, name="a", series=series)
    with pytest.raises(GeometryError, match="11 images for a mask of 12 slices"):
        write_dicom_seg(tmp_path / "a.dcm", MASK, name="a", series=series[1:])


def test_the_same_mask_is_the_same_object(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        write_dicom_seg(tmp_path / name, MASK, name="a")
    one, two = (pydicom.dcmread(tmp_path / name).SOPInstanceUID for name in ("a.dcm", "b.dcm"))
    assert one == two


def test_what_a_segmentation_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxelError, match="no class but the background"):
        write_dicom_seg(tmp_path / "a.dcm", replace(MASK, classes=MASK.classes[:1]), name="a")
    sheared = reverse_index_order(np.eye(4))
    sheared[0, 1] = 0.4
    with pytest.raises(GeometryError, match="sheared"):
        write_dicom_seg(tmp_path / "a.dcm", replace(MASK, affine=sheared), name="a")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is missing")
def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    write_dicom_seg(tmp_path / "a.dcm", MASK, name="a")
    command = ["dciodvfy", str(tmp_path / "a.dcm")]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "Segmentation" in told
    assert [line for line in told.splitlines() if line.startswith("Error")] == []
