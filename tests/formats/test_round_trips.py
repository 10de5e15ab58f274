"""Nothing is ever flipped: every path in and out, over every real case and random affines.

Two witnesses: our own reader must give back voxels and affine, and ITK, which shares no code
with it, must find a marked voxel at the same place in the patient.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from unet_batch.formats.contours import read_rtstruct
from unet_batch.formats.dicom import read_dicom_series, write_dicom_series
from unet_batch.formats.dicom_seg import read_dicom_seg
from unet_batch.formats.dicom_seg_writer import SegType, write_dicom_seg
from unet_batch.formats.discovery import discover
from unet_batch.formats.geometry import onto_grid
from unet_batch.formats.itk import read_itk, write_nrrd
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.ngff import read_ome_zarr
from unet_batch.formats.nifti import read_nifti, write_nifti
from unet_batch.formats.scan import Affine, Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import open_archive

sitk: Any = SimpleITK
CLASSES = (LabelClass(0, "background"), LabelClass(1, "organ"))
SHAPE = (3, 4, 5)
CROP = 20
MM = 1e-3
LPS = (-1, -1, 1)


@st.composite
def affines(draw: st.DrawFn) -> Affine:
    """Any rotation, 0.2 to 8 mm voxels, any origin; some left-handed."""
    angles = [draw(st.floats(-180, 180)) for _ in range(3)]
    spacing = [draw(st.floats(0.2, 8)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = [draw(st.floats(-900, 900)) for _ in range(3)]
    affine[:, 0] *= draw(st.sampled_from([1, -1]))
    return affine


markers = st.tuples(*[st.integers(0, n - 1) for n in SHAPE])
few = settings(max_examples=20)


def marked(affine: Affine, marker: tuple[int, ...]) -> Scan:
    """Numbers that grow with the index, and 1000 at the marker."""
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(1, *SHAPE)
    voxels[(0, *marker)] = 1000
    return Scan("s", voxels, affine, ("MR",), "MR")


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def assert_itk_finds(image: Any, scan: Scan, marker: tuple[int, ...]) -> None:
    voxels = sitk.GetArrayFromImage(image)
    found = np.unravel_index(voxels.argmax(), voxels.shape)
    there = image.TransformIndexToPhysicalPoint([int(n) for n in found[::-1]])
    here = (scan.affine @ [*marker, 1])[:3] * LPS
    assert voxels.max() == 1000
    assert np.allclose(there, here, rtol=0, atol=MM)


def assert_same(again: Scan, scan: Scan, tolerance: float = MM) -> None:
    assert np.array_equal(again.voxels_czyx, scan.voxels_czyx)
    assert np.abs(again.affine - scan.affine).max() < tolerance


def assert_same_place(again: Scan, scan: Scan) -> None:
    """As `assert_same`, of a format that may store slices the other way round."""
    shape = scan.voxels_czyx.shape[1:]
    mask = Mask(again.voxels_czyx[0].astype(np.uint16), again.affine, CLASSES)
    placed = onto_grid(mask, scan.affine, (shape[0], shape[1], shape[2]))
    assert np.array_equal(placed.voxels_zyx, scan.voxels_czyx[0])


@few
@given(affines(), markers)
def test_nifti(affine: Affine, marker: tuple[int, ...]) -> None:
    scan = marked(affine, marker)
    with folder() as out:
        write_nifti(out / "a.nii.gz", scan.voxels_czyx, affine)
        assert_same(read_nifti(out / "a.nii.gz"), scan)
        assert_itk_finds(sitk.ReadImage(str(out / "a.nii.gz")), scan, marker)


@few
@given(affines(), markers)
def test_nrrd(affine: Affine, marker: tuple[int, ...]) -> None:
    scan = marked(affine, marker)
    with folder() as out:
        write_nrrd(out / "a.nrrd", scan.voxels_czyx, affine)
        assert_same(read_itk(out / "a.nrrd"), scan, tolerance=1e-9)
        assert_itk_finds(sitk.ReadImage(str(out / "a.nrrd")), scan, marker)


@few
@given(affines(), markers)
def test_metaimage(affine: Affine, marker: tuple[int, ...]) -> None:
    scan = marked(affine, marker)
    with folder() as out:
        write_nrrd(out / "a.nrrd", scan.voxels_czyx, affine)
        image = sitk.ReadImage(str(out / "a.nrrd"))
        sitk.WriteImage(image, str(out / "a.mha"))
        assert_same(read_itk(out / "a.mha"), scan)
        assert_itk_finds(image, scan, marker)


@few
@given(affines(), markers)
def test_dicom_series(affine: Affine, marker: tuple[int, ...]) -> None:
    scan = marked(affine, marker)
    with folder() as out:
        paths = write_dicom_series(out, scan)
        assert_same_place(read_dicom_series(paths[::-1]), scan)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(out)))
        assert_itk_finds(reader.Execute(), scan, marker)


@few
@given(affines(), markers)
def test_ome_zarr(affine: Affine, marker: tuple[int, ...]) -> None:
    scan = marked(affine, marker)
    with folder() as out:
        open_archive(out, create=True).write_scan(scan, source={})
        assert_same(read_ome_zarr(out / "volumes/s"), scan, tolerance=1e-12)


@few
@given(affines(), markers, st.sampled_from(["binary", "labelmap"]))
def test_dicom_seg(affine: Affine, marker: tuple[int, ...], kind: SegType) -> None:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[marker] = 1
    with folder() as out:
        write_dicom_seg(out / "a.dcm", Mask(voxels, affine, CLASSES), name="s", kind=kind)
        again = read_dicom_seg(out / "a.dcm", affine, MaskRules(), labels="s")["s"]
        assert np.array_equal(onto_grid(again, affine, SHAPE).voxels_zyx, voxels)


@few
@given(affines(), markers)
def test_rtstruct(affine: Affine, marker: tuple[int, ...]) -> None:
    z, y, x = marker
    corners = [
        (z, y + dy, x + dx) for dy, dx in ((-0.4, -0.4), (-0.4, 0.4), (0.4, 0.4), (0.4, -0.4))
    ]
    contour = pydicom.Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    points = [(affine @ [*corner, 1])[:3] * LPS for corner in corners]
    contour.ContourData = [f"{n:.6f}" for point in points for n in point]
    region, name, made = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    region.ReferencedROINumber, region.ContourSequence = 1, [contour]
    name.ROINumber, name.ROIName = 1, "x"
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = pydicom.uid.RTStructureSetStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    made.StructureSetROISequence, made.ROIContourSequence = [name], [region]
    with folder() as out:
        made.save_as(out / "a.dcm", enforce_file_format=True)
        mask = read_rtstruct(out / "a.dcm", affine, SHAPE, MaskRules(), labels="s")["s"]
    assert np.argwhere(mask.voxels_zyx).tolist() == [list(marker)]


def cropped(scan: Scan) -> Scan:
    """The first CROP voxels along every axis, as int16 ranks: any format holds them."""
    part = scan.voxels_czyx[:1, :CROP, :CROP, :CROP]
    _, ranks = np.unique(part, return_inverse=True)
    ranks = ranks.reshape(part.shape).astype(np.int16)
    return Scan("s", ranks, scan.affine, ("MR",), "MR")


@pytest.mark.data
def test_every_real_case(scans: Path) -> None:
    masks = ("*seg*", "*mask*", "*label*", "*GOLD*", "RS.dcm")
    folders = sorted(
        path for path in scans.iterdir() if path.is_dir() and path != scans / "LICENSES"
    )
    plain = [path for path in folders if not path.name.startswith(("nuclei", "mr_hippocampus"))]
    many = (
        f"{scans}/nuclei_dsb2018_2d/*/images",
        f"{scans}/mr_hippocampus_msd/images/*[05]?.nii.gz",
    )
    found = discover([*plain, *many], exclude=masks).scans
    assert len(found) > 70
    for source in found:
        whole = source.read()
        scan = cropped(whole)
        with folder() as out:
            write_nifti(out / "a.nii", scan.voxels_czyx, scan.affine)
            assert_same(read_nifti(out / "a.nii"), scan)
            write_nrrd(out / "a.nrrd", scan.voxels_czyx, scan.affine)
            assert_same(read_itk(out / "a.nrrd"), scan, tolerance=1e-9)
            assert_same_place(read_dicom_series(write_dicom_series(out / "ct", scan)), scan)
            archive = open_archive(out / "archive", create=True)
            archive.write_scan(scan, source={})
            assert_same(read_ome_zarr(out / "archive/volumes/s"), scan, tolerance=1e-12)
            voxels = (scan.voxels_czyx[0] % 7 == 1).astype(np.uint8)
            mask = replace(Mask(voxels, scan.affine, CLASSES))
            write_dicom_seg(out / "seg.dcm", mask, name="s")
            again = read_dicom_seg(out / "seg.dcm", scan.affine, MaskRules(), labels="s")["s"]
            placed = onto_grid(again, scan.affine, voxels.shape)  # type: ignore[arg-type]
            assert np.array_equal(placed.voxels_zyx, voxels), source.name
