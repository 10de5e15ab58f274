"""Broken files of every kind: read, or refused by name; never another error, never silence."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom.data
import pytest
import SimpleITK
import tifffile
import zarr

from unet_batch.errors import ScanError, SpecError
from unet_batch.formats.dicom import read_dicom_series, sort_into_series, write_dicom_series
from unet_batch.formats.discovery import discover
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.masks import read_masks
from unet_batch.formats.ngff import read_ome_zarr
from unet_batch.formats.nifti import read_nifti_mask, write_nifti
from unet_batch.formats.phantom import phantom

NUM_FILES = 200
HEADER_BYTES = 1500


def mutate(content: bytes, seed: int) -> bytes:
    """Cut short, or with 1 to 7 bytes of the header flipped, replaced or set to 255."""
    random = np.random.default_rng(seed)
    kind = int(random.integers(4))
    if kind == 0:
        return content[: random.integers(len(content))]
    broken = bytearray(content)
    for place in random.integers(min(len(content), HEADER_BYTES), size=random.integers(1, 8)):
        value = (broken[place] ^ (1 << int(random.integers(8))), int(random.integers(256)), 255)
        broken[place] = value[kind - 1]
    return bytes(broken)


def refusals(path: Path, content: bytes, others: list[Path]) -> list[str]:
    """What was said of `NUM_FILES` mutants of `content` in `path`, read with `others`."""
    told = []
    for seed in range(NUM_FILES):
        mutant = mutate(content, seed)
        path.write_bytes(gzip.compress(mutant, 1) if path.suffix == ".gz" else mutant)
        try:
            if path.suffix == ".dcm":
                for files in sort_into_series([path, *others]).series:
                    read_dicom_series(files)
            else:
                read_nifti_mask(path)
        except ScanError as error:
            told.append(str(error))
    return told


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_broken_nifti_is_read_or_named(name: str, tmp_path: Path) -> None:
    _, mask = phantom(0, shape_zyx=(6, 8, 10))
    write_nifti(tmp_path / "whole.nii", mask.voxels_zyx, mask.affine)
    told = refusals(tmp_path / name, (tmp_path / "whole.nii").read_bytes(), [])
    assert len(told) > NUM_FILES / 4
    assert all(name in text for text in told)


def test_a_broken_slice_of_a_series_is_read_or_named(tmp_path: Path) -> None:
    first, *others = write_dicom_series(tmp_path, phantom(0, shape_zyx=(4, 8, 10))[0])
    told = refusals(first, first.read_bytes(), others)
    assert len(told) > NUM_FILES / 4
    assert all(str(tmp_path) in text for text in told)


@pytest.mark.parametrize("syntax", ["RLE", "jp2klossless", "jpeg_ls_lossless"])
def test_broken_compressed_slices_are_read_or_named(syntax: str, tmp_path: Path) -> None:
    path = pydicom.data.get_testdata_file(f"MR_small_{syntax}.dcm", download=False)
    assert path is not None, "pydicom has it in its wheel"
    told = refusals(tmp_path / "a.dcm", Path(path).read_bytes(), [])
    assert len(told) > NUM_FILES / 5
    assert all("a.dcm" in text or str(tmp_path) in text for text in told)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.png", "a.bmp", "a.tif", "a.zip"])
def test_broken_files_of_every_format_are_read_or_named(name: str, tmp_path: Path) -> None:
    scan, mask = phantom(0, shape_zyx=(6, 8, 10))
    whole, broken = tmp_path / f"whole{name[1:]}", tmp_path / name
    image: Any = SimpleITK.GetImageFromArray(mask.voxels_zyx)
    if name.endswith((".nrrd", ".mha")):
        SimpleITK.WriteImage(image, str(whole))
    elif name.endswith(".tif"):
        tifffile.imwrite(whole, mask.voxels_zyx, compression="zlib")
    elif name.endswith(".zip"):
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in write_dicom_series(tmp_path / "ct", scan):
                packed.write(path, path.name)
    else:
        PIL.Image.fromarray(mask.voxels_zyx[3]).save(whole)
    told = []
    for seed in range(NUM_FILES):
        broken.write_bytes(mutate(whole.read_bytes(), seed))
        try:
            for source in discover([broken]).scans:
                source.read()
        except (ScanError, SpecError) as error:
            told.append(str(error))
    assert len(told) > NUM_FILES / 5
    assert all(str(broken) in text for text in told)


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    ["dicom_ct_seg_dcmqi/liver.dcm", "ct_mr_pet_sarcoma_ibsi/dicom/STS_002/CT/mask/RS.dcm"],
)
def test_broken_segmentations_are_read_or_named(name: str, scans: Path, tmp_path: Path) -> None:
    whole, scan = (scans / name).read_bytes(), phantom(0, shape_zyx=(6, 8, 10))[0]
    told = []
    for seed in range(NUM_FILES // 4):
        (tmp_path / "a.dcm").write_bytes(mutate(whole, seed))
        try:
            read_masks(tmp_path / "a.dcm", scan, "ref", MaskRules())
        except ScanError as error:
            told.append(str(error))
    assert len(told) > NUM_FILES / 20
    assert all("a.dcm" in text for text in told)


@pytest.mark.parametrize("document", ["zarr.json", "0/zarr.json"])
def test_broken_ome_zarr_is_read_or_named(document: str, tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("0", data=np.zeros((4, 5, 6), np.uint8))
    axes = [{"name": letter, "type": "space", "unit": "millimeter"} for letter in "zyx"]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
    }
    whole, told = (tmp_path / "a.zarr" / document).read_bytes(), []
    for seed in range(NUM_FILES):
        (tmp_path / "a.zarr" / document).write_bytes(mutate(whole, seed))
        try:
            read_ome_zarr(tmp_path / "a.zarr")
        except ScanError as error:
            told.append(str(error))
    assert len(told) > NUM_FILES / 5
    assert all("a.zarr" in text for text in told)
