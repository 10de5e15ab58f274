"""Contours: real structure sets equal their masks; holes, gaps and strangers are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.contours import fill_polygon, read_rtstruct
from unet_batch.formats.dicom import read_dicom_series
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.nifti import read_nifti_mask

STS = "ct_mr_pet_sarcoma_ibsi"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]  # x, y, z in mm are the voxel indices
SQUARE = [(1.0, 1.0), (1.0, 5.0), (5.0, 5.0), (5.0, 1.0)]  # y, x
HOLE = [(2.5, 2.5), (2.5, 3.5), (3.5, 3.5), (3.5, 2.5)]


def structure_set(path: Path, regions: dict[str, list[tuple[float, Any]]]) -> Path:
    """Regions by name, each of contours (z, points yx)."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = RTStructureSetStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    names, contours = [], []
    for number, (name, outlines) in enumerate(regions.items(), start=1):
        names.append(Dataset())
        names[-1].ROINumber, names[-1].ROIName = number, name
        contours.append(Dataset())
        contours[-1].ReferencedROINumber, contours[-1].ContourSequence = number, []
        for z, points in outlines:
            outline = Dataset()
            outline.ContourGeometricType = "CLOSED_PLANAR" if len(points) > 2 else "POINT"
            outline.ContourData = [v for y, x in points for v in (x, y, z)]
            contours[-1].ContourSequence.append(outline)
    made.StructureSetROISequence, made.ROIContourSequence = names, contours
    made.save_as(path, enforce_file_format=True)
    return path


def read(path: Path, rules: MaskRules | None = None) -> Any:
    return read_rtstruct(path, LPS, (3, 8, 8), rules or MaskRules(), labels="ref")


@pytest.mark.data
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_real_structure_sets_equal_their_masks(scans: Path, modality: str) -> None:
    folder = scans / STS / "dicom/STS_002" / modality
    scan = read_dicom_series(list((folder / "image").iterdir()))
    _, z, y, x = scan.voxels_czyx.shape
    mask = read_rtstruct(folder / "mask/RS.dcm", scan.affine, (z, y, x), MaskRules(), labels="gtv")[
        "gtv"
    ]
    twin = read_nifti_mask(scans / STS / f"nifti/STS_002/{modality}_mask.nii.gz")
    assert np.array_equal(mask.voxels_zyx, twin.voxels_zyx)
    assert mask.classes[1].name == "GTV"


def test_a_contour_in_a_contour_is_a_hole(tmp_path: Path) -> None:
    mask = read(structure_set(tmp_path / "a", {"x": [(1, SQUARE), (1, HOLE)]}))["ref"]
    assert mask.voxels_zyx[1].sum() == 4 * 4 - 1
    assert mask.voxels_zyx[1, 3, 3] == 0
    assert not mask.voxels_zyx[[0, 2]].any()


@given(st.lists(st.tuples(*[st.floats(-3, 12)] * 2), min_size=3, max_size=9))
def test_a_polygon_fills_what_ray_casting_fills(points: list[tuple[float, float]]) -> None:
    polygon = np.array(points) + 0.0123  # no vertex on a row of centres
    filled = np.zeros((8, 8), np.bool_)
    fill_polygon(filled, polygon)
    for y, x in np.ndindex(8, 8):
        inside = False
        for (ya, xa), (yb, xb) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if (ya > y) != (yb > y) and x >= xa + (y - ya) / (yb - ya) * (xb - xa):
                inside = not inside
        assert filled[y, x] == inside, (y, x)


def test_regions_are_chosen_by_name_but_not_called_by_it(tmp_path: Path) -> None:
    path = structure_set(
        tmp_path / "a", {"BODY": [(0, SQUARE)], "GTV Dr. Muster": [(1, SQUARE)], "other": []}
    )
    mask = read(path, MaskRules(segments={7: "gtv*"}))["ref"]
    assert np.unique(mask.voxels_zyx).tolist() == [0, 7]
    assert [c.name for c in mask.classes] == ["background", "class_7"]
    with pytest.raises(VoxelError, match="labels that fit"):
        read(path, MaskRules(segments={1: "PTV*"}))


@pytest.mark.parametrize(
    ("z", "points", "reason"),
    [
        (1.4, SQUARE, r"0\.4 slices off"),
        (9, SQUARE, "outside of the scan"),
        (1, [(1, 1), (1, 50), (5, 5)], "outside of the scan"),
    ],
)
def test_contours_of_another_series_are_refused(
    z: float, points: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(GeometryError, match=reason):
        read(structure_set(tmp_path / "a", {"x": [(z, points)]}))


def test_points_are_left_out_aloud(tmp_path: Path) -> None:
    path = structure_set(tmp_path / "a", {"x": [(1, SQUARE), (1, [(2, 2)])]})
    assert "1 open contours or points left out" in read(path)["ref"].warnings[0]


def test_broken_contours_are_named(tmp_path: Path) -> None:
    path = structure_set(tmp_path / "a.dcm", {"x": [(1, SQUARE)]})
    dataset = pydicom.dcmread(path)
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = [1, 2, 3, 4]
    dataset.save_as(path)
    with pytest.raises(UnreadableScanError, match=r"a\.dcm"):
        read(path)
