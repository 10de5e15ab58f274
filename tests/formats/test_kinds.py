"""Kinds: what a file's name promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_batch.formats.kinds import kind_of, stem_of


@pytest.mark.parametrize(
    ("name", "kind", "stem"),
    [
        ("a.b.nii.gz", "nifti", "a.b"),
        ("A.NRRD", "itk", "A"),
        ("a.ome.tif", "tiff", "a"),
        ("a.ome.zarr", "ome-zarr", "a"),
        ("a.PNG", "picture", "a"),
        ("a.gz", None, "a.gz"),
        ("png", None, "png"),
    ],
)
def test_kind_and_stem_follow_from_the_suffix(name: str, kind: str | None, stem: str) -> None:
    assert (kind_of(Path(name)), stem_of(Path(name))) == (kind, stem)
