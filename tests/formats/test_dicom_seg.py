"""DICOM SEG in: real ones equal their NRRD twins, and overlapping segments lose nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from unet_batch.errors import GeometryError, UnreadableScanError
from unet_batch.formats.dicom import read_dicom_series
from unet_batch.formats.dicom_seg import read_dicom_seg
from unet_batch.formats.geometry import onto_grid
from unet_batch.formats.itk import read_itk
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.scan import Scan

pytestmark = pytest.mark.data


@pytest.fixture
def folder(scans: Path) -> Path:
    return scans / "dicom_ct_seg_dcmqi"


@pytest.fixture
def ct(folder: Path) -> Scan:
    return read_dicom_series(list((folder / "ct-3slice").iterdir()))


def test_a_real_segmentation_equals_its_nrrd_twin(folder: Path, ct: Scan) -> None:
    mask = read_dicom_seg(folder / "liver.dcm", ct.affine, MaskRules(), labels="ref")["ref"]
    twin = read_itk(folder / "liver_seg.nrrd").voxels_czyx[0]
    placed = onto_grid(mask, ct.affine, (3, 512, 512))
    assert np.array_equal(placed.voxels_zyx > 0, twin > 0)
    assert placed.classes[1].name == "Liver"


def test_overlapping_segments_are_all_kept(folder: Path, ct: Scan) -> None:
    path = folder / "partial_overlaps.dcm"
    masks = read_dicom_seg(path, ct.affine, MaskRules(), labels="ref")
    assert list(masks) == ["ref", "ref-segment1", "ref-segment2", "ref-segment3"]
    assert "segments 1, 2, 3 overlap in 3134 voxels" in masks["ref"].warnings[0]
    frames = pydicom.dcmread(path).pixel_array
    for number, frame in ((1, [0]), (2, [1]), (3, [2, 3, 4])):
        own = masks[f"ref-segment{number}"]
        assert np.count_nonzero(own.voxels_zyx) == frames[frame].sum()
        assert [c.value for c in own.classes] == [0, number]
    shown = masks["ref"].voxels_zyx
    assert np.count_nonzero(shown) == np.any([
        masks[name].voxels_zyx > 0 for name in list(masks)
    ], axis=0).sum()  # fmt: skip


def test_segments_are_chosen_by_label(folder: Path, ct: Scan) -> None:
    rules = MaskRules(segments={1: "GREEN", 2: "*_BLUE"}, class_names={1: "a", 2: "b"})
    path = folder / "partial_overlaps.dcm"
    masks = read_dicom_seg(path, ct.affine, rules, labels="ref")
    assert list(masks) == ["ref"], "GREEN overlaps only what was not chosen"
    assert [c.name for c in masks["ref"].classes] == ["background", "a", "b"]
    assert np.unique(masks["ref"].voxels_zyx).tolist() == [0, 1, 2]


def test_a_scan_of_another_pitch_is_refused(folder: Path, ct: Scan) -> None:
    affine = ct.affine.copy()
    affine[:3, 0] *= 1.7
    with pytest.raises(GeometryError, match=r"liver\.dcm: a frame at .* off the slices"):
        read_dicom_seg(folder / "liver.dcm", affine, MaskRules(), labels="ref")


def test_damage_is_named(folder: Path, ct: Scan, tmp_path: Path) -> None:
    whole = (folder / "liver.dcm").read_bytes()
    for length in (len(whole) // 2, 3000, 200):
        (tmp_path / "liver.dcm").write_bytes(whole[:length])
        with pytest.raises(UnreadableScanError, match=r"liver\.dcm"):
            read_dicom_seg(tmp_path / "liver.dcm", ct.affine, MaskRules(), labels="ref")
