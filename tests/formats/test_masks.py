"""Masks of every kind land on the grid of their scan."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from unet_batch.errors import UnreadableScanError, VoxelError
from unet_batch.formats.contours import read_rtstruct
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.itk import write_nrrd
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.masks import is_object_folder, read_masks
from unet_batch.formats.phantom import phantom
from unet_batch.formats.pictures import picture_affine, read_picture
from unet_batch.formats.scan import Mask, Scan
from unet_batch.formats.zips import list_zip

CLASSES = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)
PICTURE = Scan("p", np.zeros((3, 1, 2, 3), np.uint8), picture_affine((1, 2, 3)), ("r", "g", "b"))


def mask_of(place: Path, rules: MaskRules | None = None, scan: Scan = PICTURE) -> Mask:
    return read_masks(place, scan, "ref", rules or MaskRules())["ref"]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_pictures_lie_on_the_grid_of_their_scan(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, CLASSES)
    else:
        PIL.Image.fromarray(CLASSES).save(path)
    mask = mask_of(path)
    assert np.array_equal(mask.voxels_zyx, CLASSES[None])
    assert np.array_equal(mask.affine, PICTURE.affine)


def test_one_mask_an_object_is_their_union(tmp_path: Path) -> None:
    for value in (1, 2):
        PIL.Image.fromarray(np.uint8(255) * (value == CLASSES)).save(tmp_path / f"{value}.png")
    assert is_object_folder(tmp_path)
    mask = mask_of(tmp_path)
    assert np.array_equal(mask.voxels_zyx[0], CLASSES > 0)
    assert [c.name for c in mask.classes] == ["background", "object"]
    PIL.Image.fromarray(CLASSES.T.copy()).save(tmp_path / "3.png")
    with pytest.raises(VoxelError, match=r"3\.png: \(1, 3, 2\) pixels"):
        mask_of(tmp_path)


def test_files_with_an_affine_lie_where_they_say(tmp_path: Path) -> None:
    scan, truth = phantom(3, shape_zyx=(5, 6, 7))
    write_nrrd(tmp_path / "a.nrrd", truth.voxels_zyx, truth.affine)
    mask = mask_of(tmp_path / "a.nrrd", scan=scan)
    assert np.array_equal(mask.voxels_zyx, truth.voxels_zyx)
    assert np.allclose(mask.affine, truth.affine, atol=1e-9)


def test_what_is_no_mask_is_said(tmp_path: Path) -> None:
    scan, truth = phantom(3, shape_zyx=(5, 6, 7))
    write_nrrd(tmp_path / "a.nrrd", np.stack([truth.voxels_zyx] * 2), truth.affine)
    with pytest.raises(VoxelError, match="a mask has one channel, this has 2"):
        mask_of(tmp_path / "a.nrrd", scan=scan)
    (path, *_) = write_dicom_series(tmp_path / "ct", scan)
    with pytest.raises(UnreadableScanError, match=r"expected a DICOM segmentation.*Image Storage"):
        mask_of(path, scan=scan)


@pytest.mark.data
def test_a_structure_set_in_a_zip_is_read_there(scans: Path, tmp_path: Path) -> None:
    packed = scans / "large_ct_dicom_sts020/STS_020_CT.zip"
    members, _ = list_zip(packed)
    (member,) = [m for m in members if m.name == "RS.dcm"]
    with zipfile.ZipFile(packed) as archive:
        archive.extract(member.member, tmp_path)
    affine = np.eye(4)
    with pytest.raises(Exception, match="drawn on another series") as inside:
        read_masks(member, PICTURE, "ref", MaskRules())
    assert str(packed) in str(inside.value)
    with pytest.raises(Exception, match="drawn on another series"):
        read_rtstruct(tmp_path / member.member, affine, (1, 1, 1), MaskRules(), labels="ref")


@pytest.mark.data
def test_real_greys_of_axon_and_myelin_are_classes(scans: Path) -> None:
    folder = scans / "sem_axon_myelin_2d"
    rules = MaskRules(values={127: 1, 255: 2}, class_names={1: "myelin", 2: "axon"})
    refused = []
    for image in sorted((folder / "images").iterdir()):
        path = folder / f"labels/{image.stem}_seg-axonmyelin-manual.png"
        parts = [folder / f"labels/{image.stem}_seg-{n}-manual.png" for n in ("myelin", "axon")]
        try:
            mask = mask_of(path, rules, read_picture(image))
        except VoxelError as error:
            refused.append(str(error))
            continue
        for value, part in enumerate(parts, start=1):
            own = mask_of(part, MaskRules(values={255: 1}, strays="nearest"), read_picture(image))
            agree = (mask.voxels_zyx == value) == (own.voxels_zyx > 0)
            assert agree.mean() > 0.999, part.name
    assert len(refused) == 1
    assert "128 (488611 voxels), 130 (5 voxels), 233 (4 voxels)" in refused[0]


@pytest.mark.data
def test_real_nuclei_are_the_union_of_their_masks(scans: Path) -> None:
    count = 0
    for folder in sorted((scans / "nuclei_dsb2018_2d").iterdir()):
        masks = sorted((folder / "masks").iterdir())
        scan = read_picture(next((folder / "images").iterdir()))
        union = np.any([np.asarray(PIL.Image.open(m)) > 0 for m in masks], axis=0)
        assert np.array_equal(mask_of(folder / "masks", scan=scan).voxels_zyx[0], union)
        count += len(masks)
    assert count == 1608
