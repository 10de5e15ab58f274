"""NRRD and MetaImage: what ITK itself writes is read at its place; headers are not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.geometry import orientation_code
from unet_batch.formats.itk import read_itk, write_nrrd
from unet_batch.formats.nifti import read_nifti

sitk: Any = SimpleITK
VOXELS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def written(
    path: Path, voxels: Any = VOXELS, *, is_vector: bool = False, pack: bool = True
) -> Path:
    image = sitk.GetImageFromArray(voxels, isVector=is_vector)
    image.SetSpacing([0.5, 0.75, 3][: image.GetDimension()])
    image.SetOrigin([10, 20, 30][: image.GetDimension()])
    sitk.WriteImage(image, str(path), pack)
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("pack", [True, False])
def test_voxels_lie_where_itk_put_them(suffix: str, pack: bool, tmp_path: Path) -> None:
    scan = read_itk(written(tmp_path / f"a{suffix}", pack=pack))
    assert np.array_equal(scan.voxels_czyx[0], VOXELS)
    assert scan.spacing_mm == (3, 0.75, 0.5)
    assert orientation_code(scan.affine) == "LPS"
    assert scan.affine[:3, 3].tolist() == [-10, -20, 30]
    assert scan.name == "a"


def test_an_nrrd_in_ras_space_is_turned_to_the_same_place(tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 4 3 2\n"
        "space directions: (0.5,0,0) (0,0.75,0) (0,0,3)\nspace origin: (10,20,30)\n"
        "kinds: domain domain domain\nendian: little\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + VOXELS.tobytes())
    scan = read_itk(tmp_path / "a.nrrd")
    assert orientation_code(scan.affine) == "RAS"
    assert scan.affine[:3, 3].tolist() == [10, 20, 30]
    assert np.array_equal(scan.voxels_czyx[0], VOXELS)


def test_vectors_are_channels_and_pictures_one_slice(tmp_path: Path) -> None:
    vectors = np.stack([VOXELS, VOXELS + 50], axis=-1)
    scan = read_itk(written(tmp_path / "a.mha", vectors, is_vector=True))
    assert np.array_equal(scan.voxels_czyx, np.stack([VOXELS, VOXELS + 50]))
    assert scan.channels == ("0", "1")
    assert read_itk(written(tmp_path / "b.nrrd", VOXELS[0])).voxels_czyx.shape == (1, 1, 3, 4)


@pytest.mark.data
def test_a_real_nrrd_equals_what_itk_reads(scans: Path) -> None:
    path = scans / "nrrd_mr_brain_tumour_pyradiomics/brain1_image.nrrd"
    scan, image = read_itk(path), sitk.ReadImage(str(path))
    assert np.array_equal(scan.voxels_czyx[0], sitk.GetArrayFromImage(image))
    for zyx in [(0, 0, 0), (24, 255, 17)]:
        lps = image.TransformIndexToPhysicalPoint(zyx[::-1])
        assert np.allclose(scan.affine @ [*zyx, 1], [-lps[0], -lps[1], lps[2], 1])


def test_written_nrrd_is_where_itk_and_nibabel_say(tmp_path: Path) -> None:
    affine = np.array([[0, 0.1, -0.9, 5], [0, 1.5, 0.1, 6], [4, 0, 0, 7], [0, 0, 0, 1.0]])
    write_nrrd(tmp_path / "a.nrrd", np.stack([VOXELS, VOXELS]), affine)
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    sitk.WriteImage(sitk.VectorIndexSelectionCast(image, 1), str(tmp_path / "a.nii"))
    twin = read_nifti(tmp_path / "a.nii")
    assert np.array_equal(twin.voxels_czyx[0], VOXELS)
    assert np.allclose(read_itk(tmp_path / "a.nrrd").affine, affine, atol=1e-12)


@pytest.mark.parametrize(
    "data", ["../secret.raw", "/etc/passwd", "none.raw", "LIST", "a%03d.raw 1 2 1"]
)
def test_data_files_elsewhere_are_refused(data: str, tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    folder = tmp_path / "in"
    folder.mkdir()
    header = written(folder / "a.mhd", pack=False).read_text().replace("a.raw", data)
    (folder / "a.mhd").write_text(header)
    with pytest.raises(UnreadableScanError, match=r"a\.mhd"):
        read_itk(folder / "a.mhd")


def test_a_link_for_a_data_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "in").mkdir()
    written(tmp_path / "in/a.mhd", pack=False)
    (tmp_path / "in/a.raw").unlink()
    (tmp_path / "in/a.raw").symlink_to(tmp_path / "secret.raw")
    with pytest.raises(UnreadableScanError, match="not a file in the same folder"):
        read_itk(tmp_path / "in/a.mhd")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_absurd_sizes_are_refused_before_memory_is_taken(suffix: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"a{suffix}", pack=False)
    path.write_bytes(path.read_bytes().replace(b"4 3 2", b"40000 30000 20000", 1))
    with pytest.raises(UnreadableScanError, match="promises 48000000000000 bytes"):
        read_itk(path)


def test_what_is_no_scan_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text("text")
    with pytest.raises(UnreadableScanError, match="expected NRRD or MetaImage"):
        read_itk(tmp_path / "a.nrrd")
    whole = written(tmp_path / "b.mha", pack=False).read_bytes()
    (tmp_path / "b.mha").write_bytes(whole[:-8])
    with pytest.raises(UnreadableScanError, match=r"b\.mha"):
        read_itk(tmp_path / "b.mha")
    written(tmp_path / "c.nrrd", VOXELS.astype(np.complex64))
    with pytest.raises(VoxelError, match="complex"):
        read_itk(tmp_path / "c.nrrd")
    four = sitk.GetImageFromArray(np.zeros((2, 2, 2, 2), np.int16), isVector=False)
    sitk.WriteImage(four, str(tmp_path / "d.nrrd"))
    with pytest.raises(GeometryError, match="4 dimensions"):
        read_itk(tmp_path / "d.nrrd")
