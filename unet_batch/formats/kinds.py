"""Kinds of files by their suffixes: what a name promises, before anything is read."""

from __future__ import annotations

from typing import Literal, Protocol

Kind = Literal["nifti", "itk", "tiff", "picture", "dicom", "ome-zarr"]

_SUFFIXES: dict[str, Kind] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".nrrd": "itk",
    ".nhdr": "itk",
    ".mha": "itk",
    ".mhd": "itk",
    ".ome.tiff": "tiff",
    ".ome.tif": "tiff",
    ".tiff": "tiff",
    ".tif": "tiff",
    ".png": "picture",
    ".jpeg": "picture",
    ".jpg": "picture",
    ".bmp": "picture",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".ome.zarr": "ome-zarr",
    ".zarr": "ome-zarr",
}  # longer suffixes stand before those they end with
FILE_SUFFIXES = tuple(s for s, kind in _SUFFIXES.items() if kind != "ome-zarr")


class Named(Protocol):
    """Whatever has a file name: a path on disk, a member of a zip, an object of a bucket."""

    @property
    def name(self) -> str:
        """The file name."""


def kind_of(path: Named) -> Kind | None:
    """The kind that the suffix promises, in whatever case; None where it is of no known kind."""
    return _SUFFIXES.get(suffix_of(path))


def suffix_of(path: Named) -> str:
    """The known suffix of the file name in lower case (`.nii.gz`), or an empty text."""
    name = path.name.lower()
    return next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")


def stem_of(path: Named) -> str:
    """The file name without its known suffix."""
    return path.name[: len(path.name) - len(suffix_of(path))]
