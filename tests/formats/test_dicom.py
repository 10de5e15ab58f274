"""DICOM in and out: real series equal their NIfTI twins, and every broken one is named."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.dicom import read_dicom_series, sort_into_series, write_dicom_series
from unet_batch.formats.dicom_file import is_dicom
from unet_batch.formats.geometry import orientation_code
from unet_batch.formats.nifti import read_nifti
from unet_batch.formats.phantom import phantom
from unet_batch.formats.scan import Scan

SARCOMA = "ct_mr_pet_sarcoma_ibsi"
Edit = Callable[[Any], None]
AXIAL = np.array([[0, 0, -1.0, 9], [0, -1, 0, 8], [3, 0, 0, 7], [0, 0, 0, 1]])


def scan_of(affine: Any, shape: tuple[int, int, int] = (4, 5, 6), modality: str = "CT") -> Scan:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(1, *shape) - 50
    return Scan("example", voxels, np.asarray(affine), (modality,), modality)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    """Five slices, 3 mm apart."""
    return write_dicom_series(tmp_path / "ct", scan_of(AXIAL, (5, 6, 7)))


def edit(path: Path, change: Edit) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


@pytest.mark.data
@pytest.mark.parametrize(("modality", "relative"), [("CT", 0), ("MR_T1", 0), ("PET", 2e-6)])
def test_real_series_equal_their_nifti_twins(scans: Path, modality: str, relative: float) -> None:
    folder = scans / SARCOMA / "dicom/STS_002" / modality / "image"
    scan = read_dicom_series(sorted(folder.iterdir(), reverse=True))
    twin = read_nifti(scans / SARCOMA / f"nifti/STS_002/{modality}_image.nii.gz")
    np.testing.assert_allclose(scan.voxels_czyx, twin.voxels_czyx, rtol=relative)
    assert scan.voxels_czyx.dtype == (np.float32 if modality == "PET" else np.int16)
    assert np.abs(scan.affine - twin.affine).max() < 5e-5  # NIfTI-1 stores -629.04 as float32


@pytest.mark.data
def test_spacing_comes_from_positions_not_from_slice_thickness(scans: Path) -> None:
    folder = scans / "dicom_mr_scanner_sagittal/HFS/3_t1_fl2d_sag"
    scan = read_dicom_series(list(folder.iterdir()))
    assert scan.metadata["SliceThickness"] == 4
    assert scan.spacing_mm == pytest.approx((4.8, 1.015625, 1.015625))
    assert orientation_code(scan.affine) == "PIR"


@pytest.mark.data
def test_a_zip_of_97_slices_is_one_series_and_a_contour_set(scans: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(scans / "large_ct_dicom_sts020/STS_020_CT.zip") as packed:
        packed.extractall(tmp_path)
    found = sort_into_series(list(tmp_path.rglob("*.dcm")))
    assert [len(files) for files in found.series] == [97]
    assert "RT Structure Set" in found.notes[0]
    assert read_dicom_series(found.series[0]).voxels_czyx.shape == (1, 97, 304, 241)


@pytest.mark.data
def test_no_identifier_reaches_the_scan(scans: Path) -> None:
    folder = scans / SARCOMA / "dicom/STS_002/CT/image"
    header = pydicom.dcmread(next(folder.iterdir()))
    text = str(read_dicom_series(sorted(folder.iterdir()), name="x").metadata)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert str(header[keyword].value) not in text


@settings(max_examples=25, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 7)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
)
def test_oblique_series_survive_a_round_trip(
    angles: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() * spacing
    affine[:, 0] *= -1  # columns z, y, x: this makes x, y, z right-handed
    affine[:3, 3] = origin
    scan = scan_of(affine)
    with tempfile.TemporaryDirectory() as folder:
        again = read_dicom_series(write_dicom_series(Path(folder), scan))
    assert np.array_equal(again.voxels_czyx, scan.voxels_czyx)
    assert np.abs(again.affine - scan.affine).max() < 1e-6


def test_a_left_handed_grid_reads_back_with_z_reversed(tmp_path: Path) -> None:
    scan = scan_of(AXIAL @ np.diag([-1, 1, 1, 1]))
    again = read_dicom_series(write_dicom_series(tmp_path, scan))
    assert np.array_equal(again.voxels_czyx[:, ::-1], scan.voxels_czyx)
    assert np.allclose(again.affine @ [3, 0, 0, 1], scan.affine @ [0, 0, 0, 1])


def test_phantoms_survive_a_round_trip(tmp_path: Path) -> None:
    scan, _ = phantom(4)
    again = read_dicom_series(write_dicom_series(tmp_path, scan))
    assert np.array_equal(again.voxels_czyx, scan.voxels_czyx)
    assert np.abs(again.affine - scan.affine).max() < 1e-6
    assert (again.modality, again.channels) == ("MR", ("MR",))


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, np.int16), (1, 32700, np.uint16), (1, 70000, np.int32), (0.5, 0, np.float32)],
)
def test_voxels_take_the_narrowest_exact_type(
    series: list[Path], slope: float, intercept: float, dtype: type
) -> None:
    before = read_dicom_series(series).voxels_czyx
    for path in series:
        edit(path, lambda d: d.update({"RescaleSlope": slope, "RescaleIntercept": intercept}))
    after = read_dicom_series(series).voxels_czyx
    assert after.dtype == dtype
    assert np.array_equal(after, before.astype(float) * slope + intercept)


def test_each_slice_has_its_own_slope(series: list[Path]) -> None:
    before = read_dicom_series(series).voxels_czyx
    for k, path in enumerate(series):
        edit(path, lambda d, k=k: setattr(d, "RescaleSlope", k + 0.25))
    slopes = np.arange(5)[:, None, None] + 0.25
    assert np.array_equal(read_dicom_series(series).voxels_czyx[0], before[0] * slopes)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_missing_slice_is_named(series: list[Path], lost: int) -> None:
    with pytest.raises(GeometryError, match=rf"between 00000{lost - 1}\.dcm and 00000{lost + 1}"):
        read_dicom_series([path for k, path in enumerate(series) if k != lost])


def test_a_slice_given_twice_is_named(series: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(series[2].read_bytes())
    with pytest.raises(GeometryError, match="two slices at the same place"):
        read_dicom_series([*series, copy])


def colour(dataset: Any) -> None:
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "RGB", 3


def inverted(dataset: Any) -> None:
    dataset.PhotometricInterpretation = "MONOCHROME1"


def no_position(dataset: Any) -> None:
    del dataset.ImagePositionPatient


def no_pixels(dataset: Any) -> None:
    del dataset.PixelData


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (colour, VoxelError, "RGB pixels"),
        (inverted, VoxelError, "MONOCHROME1 pixels"),
        (lambda d: setattr(d, "NumberOfFrames", 3), VoxelError, "3 frames in one file"),
        (no_position, GeometryError, r"ImagePositionPatient is \[\]"),
        (lambda d: setattr(d, "PixelSpacing", [0, 1]), GeometryError, "PixelSpacing"),
        (lambda d: setattr(d, "Rows", 600), UnreadableScanError, "not a readable DICOM image"),
        (no_pixels, UnreadableScanError, "ends before its pixels"),
    ],
)  # fmt: skip
def test_unusable_slices_are_named(
    series: list[Path], change: Edit, error: type[Exception], told: str
) -> None:
    edit(series[3], change)
    with pytest.raises(error, match=rf"000003\.dcm.*{told}"):
        read_dicom_series(series)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.97])
def test_truncated_slices_are_named_whoever_sorts_them(series: list[Path], share: float) -> None:
    content = series[2].read_bytes()
    series[2].write_bytes(content[: int(len(content) * share)])
    (files,) = sort_into_series(series).series
    with pytest.raises(UnreadableScanError, match=r"000002\.dcm"):
        read_dicom_series(files)


def test_series_come_apart_by_number_orientation_and_size(tmp_path: Path) -> None:
    sagittal = AXIAL[[2, 0, 1, 3]]
    first = write_dicom_series(tmp_path / "a", scan_of(AXIAL))
    second = write_dicom_series(tmp_path / "b", scan_of(sagittal))  # the same UIDs
    third = write_dicom_series(tmp_path / "c", scan_of(AXIAL, (3, 9, 9)))
    for path in first:
        edit(path, lambda d: setattr(d, "SeriesNumber", 7))
    found = sort_into_series([*first, *second, *third])
    assert {tuple(files) for files in found.series} == {tuple(first), tuple(second), tuple(third)}
    assert found.series[-1] == tuple(first)


def test_dicom_is_known_by_its_magic(series: list[Path], tmp_path: Path) -> None:
    renamed = series[0].rename(tmp_path / "IM0001")
    (tmp_path / "text.dcm").write_text("no")
    assert is_dicom(renamed)
    assert not is_dicom(tmp_path / "text.dcm")


def test_a_lone_slice_is_read_with_a_warning(series: list[Path]) -> None:
    scan = read_dicom_series(series[:1])
    assert scan.spacing_mm == (3, 1, 1)
    assert "one slice only" in scan.warnings[0]


def test_what_dicom_cannot_say_is_not_written(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    with pytest.raises(GeometryError, match="sheared"):
        write_dicom_series(tmp_path, scan_of(sheared))
    fractions = Scan("x", np.full((1, 2, 2, 2), 0.5), np.eye(4), ("CT",), "CT")
    with pytest.raises(VoxelError, match="int16"):
        write_dicom_series(tmp_path, fractions)
    with pytest.raises(VoxelError, match="2 channels"):
        write_dicom_series(tmp_path, Scan("x", np.zeros((2, 2, 2, 2)), np.eye(4), ("a", "b")))


def test_compressed_series_are_read(series: list[Path]) -> None:
    before = read_dicom_series(series)
    for path in series:
        edit(path, lambda d: d.compress(pydicom.uid.RLELossless))
    assert np.array_equal(read_dicom_series(series).voxels_czyx, before.voxels_czyx)


@pytest.mark.parametrize(
    "syntax", ["RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit"]
)
def test_transfer_syntaxes_hold_the_same_voxels(syntax: str) -> None:
    path = pydicom.data.get_testdata_file(f"MR_small_{syntax}.dcm", download=False)
    plain = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
    assert path is not None, "pydicom has it in its wheel"
    assert plain is not None, "pydicom has it in its wheel"
    expected = read_dicom_series([Path(plain)]).voxels_czyx
    assert np.array_equal(read_dicom_series([Path(path)]).voxels_czyx, expected)
