"""NIfTI in and out: every real file survives the round trip, every broken one is named."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.kinds import stem_of
from unet_batch.formats.nifti import read_nifti, read_nifti_mask, write_nifti
from unet_batch.formats.scan import Affine

AFFINE = np.array([[0, 0, -0.5, 10], [0, 0.75, 0, -20], [3, 0, 0, 5.5], [0, 0, 0, 1.0]])


def save(path: Path, voxels: Any, **header: Any) -> Path:
    image = nibabel.Nifti1Image(voxels, np.diag([0.5, 0.75, 3, 1.0]))
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


@pytest.mark.data
def test_every_real_file_survives_a_round_trip(scans: Path, tmp_path: Path) -> None:
    paths = [p for p in sorted(scans.rglob("*.nii.gz")) if "hippocampus_1" not in p.name]
    assert len(paths) > 100
    for path in paths:
        scan = read_nifti(path)
        write_nifti(tmp_path / "a.nii.gz", scan.voxels_czyx, scan.affine, metadata=scan.metadata)
        again = read_nifti(tmp_path / "a.nii.gz")
        assert again.voxels_czyx.dtype == scan.voxels_czyx.dtype, path
        assert np.array_equal(again.voxels_czyx, scan.voxels_czyx), path
        assert np.abs(again.affine - scan.affine).max() < 1e-6, path


@pytest.mark.data
def test_voxels_and_affine_equal_nibabels(scans: Path) -> None:
    path = scans / "mr_spinalcord_sct/t2s/t2s.nii.gz"
    image: Any = nibabel.load(path)
    scan = read_nifti(path)
    assert np.array_equal(scan.voxels_czyx[0].T, image.get_fdata())
    index_xyz = np.array([40, 3, 7, 1])
    assert np.allclose(scan.affine @ index_xyz[[2, 1, 0, 3]], image.affine @ index_xyz)


@pytest.mark.data
def test_float_masks_of_whole_numbers_are_accepted(scans: Path) -> None:
    path = scans / "mr_hippocampus_msd/labels/hippocampus_243.nii.gz"
    assert read_nifti(path).voxels_czyx.dtype == np.float32
    mask = read_nifti_mask(path, class_names={1: "anterior", 2: "posterior"})
    assert mask.voxels_zyx.dtype == np.uint8
    assert [c.name for c in mask.classes] == ["background", "anterior", "posterior"]


@pytest.mark.data
def test_a_qform_alone_is_honoured(scans: Path) -> None:
    path = next(scans.glob("mr_ms_lesion_4ch/*/T1_*.nii.gz"))
    scan = read_nifti(path)
    assert scan.metadata["sform_code"] == 0
    assert np.allclose(scan.affine[:3, :3], [[0, 0, -1], [0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, ">i2"])
def test_voxels_keep_their_type(tmp_path: Path, dtype: Any) -> None:
    voxels = np.arange(24).reshape(2, 3, 4).astype(dtype)
    scan = read_nifti(save(tmp_path / "a.nii", voxels))
    assert scan.voxels_czyx.dtype == voxels.dtype.newbyteorder("=")
    assert np.array_equal(scan.voxels_czyx[0].T, voxels)


def test_rescaled_voxels_become_float32(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii.gz")
    scan = read_nifti(tmp_path / "a.nii.gz")
    assert scan.voxels_czyx.dtype == np.float32
    assert np.allclose(scan.voxels_czyx[0].T, image.get_fdata() * 0.5 - 3)


def test_the_last_axis_of_4d_files_becomes_channels(tmp_path: Path) -> None:
    voxels = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    scan = read_nifti(save(tmp_path / "a.nii.gz", voxels))
    assert scan.voxels_czyx.shape == (5, 4, 3, 2)
    assert len(scan.channels) == 5
    assert np.array_equal(scan.voxels_czyx[4].T, voxels[..., 4])
    write_nifti(tmp_path / "b.nii.gz", scan.voxels_czyx, scan.affine)
    assert np.array_equal(read_nifti(tmp_path / "b.nii.gz").voxels_czyx, scan.voxels_czyx)


def test_a_flat_image_gets_one_slice(tmp_path: Path) -> None:
    scan = read_nifti(save(tmp_path / "a.nii", np.ones((5, 4), np.uint8)))
    assert scan.voxels_czyx.shape == (1, 1, 4, 5)


def test_micrometres_become_millimetres(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.diag([50.0, 60, 70, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").spacing_mm == pytest.approx((0.07, 0.06, 0.05))


def test_unoriented_files_are_read_with_a_warning(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), None)
    image.header.set_zooms((0.5, 0.75, 3))
    nibabel.save(image, tmp_path / "a.nii")
    scan = read_nifti(tmp_path / "a.nii")
    assert scan.spacing_mm == (3, 0.75, 0.5)
    assert "left and right are unknown" in scan.warnings[0]


def test_header_text_stays_behind(tmp_path: Path) -> None:
    voxels = np.ones((2, 3, 4), np.uint8)
    path = save(tmp_path / "a.nii", voxels, descrip=b"Erika Muster", db_name=b"Muster")
    assert "Muster" not in str(read_nifti(path))


def test_a_sheared_grid_is_written_as_sform_only(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    write_nifti(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.uint8), sheared)
    again = read_nifti(tmp_path / "a.nii.gz")
    assert np.abs(again.affine - sheared).max() < 1e-6
    assert again.metadata["qform_code"] == 0


def test_writing_leaves_no_unfinished_file(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.uint8), AFFINE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def flat() -> Affine:
    return np.diag([1.0, 0.0, 1.0, 1.0])


def nan() -> Affine:
    return np.diag([1.0, np.nan, 1.0, 1.0])


@pytest.mark.parametrize("affine", [flat(), nan()])
def test_impossible_affines_are_refused(tmp_path: Path, affine: Affine) -> None:
    image = nibabel.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4))
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = affine[row]
    image.header["sform_code"] = 1
    image._affine = None  # so that saving keeps the header's
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=r"a\.nii"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated_files_are_named(tmp_path: Path, name: str, share: float) -> None:
    voxels = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / name, voxels)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnreadableScanError, match=r"a\.nii"):
        read_nifti(path)


def test_a_corrupt_stream_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20), np.float32))
    content = bytearray(path.read_bytes())
    content[5000:5100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(UnreadableScanError, match="copy it again"):
        read_nifti(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"no scan at all\n" * 100, gzip.compress(b"text" * 99)],
    ids=["empty", "text", "zipped text"],  # gzip's header holds the time: no name for a test
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableScanError, match=r"a\.nii"):
        read_nifti(tmp_path / name)
    with pytest.raises(UnreadableScanError, match="no such file"):
        read_nifti(tmp_path / "missing.nii")


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.float64))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(UnreadableScanError, match="promises 281449207693304 bytes"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("values", "told"),
    [([0, 0.5], "0.5"), ([0, -1], "-1"), ([0, 70000], "70000"), ([np.nan], "nan")],
)
def test_masks_with_impossible_values_are_refused(
    tmp_path: Path, values: list[float], told: str
) -> None:
    voxels = np.resize(np.array(values, np.float32), (2, 3, 4))
    with pytest.raises(VoxelError, match=told):
        read_nifti_mask(save(tmp_path / "a.nii", voxels))


def test_masks_of_many_classes_are_uint16_and_unnamed_values_are_refused(tmp_path: Path) -> None:
    voxels = np.resize(np.array([0, 7, 300], np.int32), (2, 3, 4))
    path = save(tmp_path / "a.nii", voxels)
    mask = read_nifti_mask(path)
    assert mask.voxels_zyx.dtype == np.uint16
    assert [(c.value, c.name) for c in mask.classes[1:]] == [(7, "class_7"), (300, "class_300")]
    with pytest.raises(VoxelError, match="300 not in class_names"):
        read_nifti_mask(path, class_names={7: "vessel"})


def test_colour_voxels_are_refused(tmp_path: Path) -> None:
    colour = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(VoxelError, match="real grey values"):
        read_nifti(save(tmp_path / "a.nii", colour))


@pytest.mark.parametrize("name", ["a.b.nii.gz", "a.b.nii", "a.b.NII.GZ"])
def test_stems_lose_the_whole_suffix(name: str) -> None:
    assert stem_of(Path("x") / name) == "a.b"


def save_with_forms(path: Path, sform: Affine, qform: Affine) -> Path:
    image: Any = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), sform)
    image.set_sform(sform, 4)
    image.set_qform(qform, 1)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_forms_that_mirror_each_other_are_refused(axis: int, tmp_path: Path) -> None:
    mirrored = np.diag([0.5, 0.75, 3, 1.0])
    mirrored[axis, axis] *= -1
    path = save_with_forms(tmp_path / "a.nii", np.diag([0.5, 0.75, 3, 1.0]), mirrored)
    with pytest.raises(GeometryError, match=f"voxel axis {'ijk'[axis]} runs the opposite way"):
        read_nifti(path)


def test_forms_that_lie_apart_are_told_and_the_sform_is_taken(tmp_path: Path) -> None:
    sform, qform = np.diag([0.5, 0.75, 3, 1.0]), np.diag([0.5, 0.75, 3, 1.0])
    qform[:3, 3] = 0.5
    assert read_nifti(save_with_forms(tmp_path / "a.nii", sform, qform)).warnings == ()
    qform[:3, 3] = 7.5
    scan = read_nifti(save_with_forms(tmp_path / "b.nii", sform, qform))
    assert scan.warnings == ("sform and qform place voxels up to 7.5 mm apart: the sform is taken",)
    assert scan.affine[:3, 3].tolist() == [0, 0, 0]
