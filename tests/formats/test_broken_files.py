"""Broken files of every kind: read, or refused by name; never another error, never silence."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pydicom.data
import pytest

from unet_batch.errors import ScanError
from unet_batch.formats.dicom import read_dicom_series, sort_into_series, write_dicom_series
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
