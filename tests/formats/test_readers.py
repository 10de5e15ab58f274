"""Readers: one call for any file; several files as channels or as slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from unet_batch.errors import GeometryError, UnreadableScanError, VoxelError
from unet_batch.formats.itk import write_nrrd
from unet_batch.formats.nifti import write_nifti
from unet_batch.formats.readers import ReadOptions, read_channels, read_image, read_stack

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def slices(folder: Path) -> list[Path]:
    paths = [folder / f"s{number}.png" for number in (1, 2, 10)]
    for value, path in enumerate(paths):
        PIL.Image.fromarray(GREY + value).save(path)
    return paths


def test_pictures_of_a_folder_stack_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    options = ReadOptions(spacing_mm=(5, 2, 1), stack_pictures=True)
    scan = read_stack(slices(tmp_path)[::-1], options, name="s")
    assert np.array_equal(scan.voxels_czyx[0], np.stack([GREY, GREY + 1, GREY + 2]))
    assert scan.spacing_mm == (5, 2, 1)


def test_slices_that_differ_are_named(tmp_path: Path) -> None:
    paths = slices(tmp_path)
    PIL.Image.fromarray(GREY.T.copy()).save(paths[1])
    with pytest.raises(VoxelError, match=r"s2\.png: slices of one stack are alike"):
        read_stack(paths, ReadOptions(), name="s")


def test_channels_may_be_files_of_different_formats(tmp_path: Path) -> None:
    affine = np.diag([3.0, 2, 1, 1])
    write_nrrd(tmp_path / "a.nrrd", GREY[None], affine)
    write_nifti(tmp_path / "b.nii", GREY[None] + 5, affine)
    paths = [tmp_path / "a.nrrd", tmp_path / "b.nii"]
    scan = read_channels(paths, ("a", "b"), ReadOptions(), name="s")
    assert np.array_equal(scan.voxels_czyx, np.stack([GREY[None], GREY[None] + 5]))
    write_nifti(tmp_path / "b.nii", GREY[None], affine * 2)
    with pytest.raises(GeometryError, match=r"b\.nii: channels of one Volume share one grid"):
        read_channels(paths, ("a", "b"), ReadOptions(), name="s")


def test_unknown_kinds_are_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableScanError, match="of no known kind"):
        read_image(tmp_path / "a.txt", ReadOptions(), name="a")
