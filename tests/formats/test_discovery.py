"""Discovery: which scans there are, what they are called, and which masks are theirs."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from unet_batch.errors import GeometryError, SpecError, UnreadableScanError
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.discovery import ScanSource, discover, safe_name
from unet_batch.formats.nifti import read_nifti, write_nifti
from unet_batch.formats.readers import ReadOptions
from unet_batch.formats.scan import Scan


def image(path: Path, *, value: int = 1, spacing: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.full((2, 3, 4), value, np.int16)
    write_nifti(path, voxels, np.diag([spacing, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    return path


def series(folder: Path, name: str = "s") -> list[Path]:
    voxels = np.zeros((1, 2, 3, 4), np.int16)
    return write_dicom_series(folder, Scan(name, voxels, np.eye(4), ("CT",), "CT"))


def len_of(scan: ScanSource) -> int:
    return -len(scan.paths)


def ids(*sources: str | Path, **options: Any) -> list[str]:
    return [scan.name for scan in discover(sources, **options).scans]


def test_ids_are_relative_paths_without_suffix(tmp_path: Path) -> None:
    image(tmp_path / "a.b.nii.gz")
    image(tmp_path / "patient 1/T1.nii")
    series(tmp_path / "p2/ct")
    assert ids(tmp_path) == ["a.b", "p2_ct", "patient_1_T1"]
    assert ids(tmp_path / "p2/ct") == ["ct"]
    assert ids(tmp_path / "patient 1/T1.nii") == ["T1"]
    assert ids(f"{tmp_path}/*/T1.nii") == ["patient_1_T1"]


def test_several_series_of_a_folder_are_numbered(tmp_path: Path) -> None:
    for k, path in enumerate([*series(tmp_path / "x", "one"), *series(tmp_path / "y", "two")]):
        (tmp_path / "ct").mkdir(exist_ok=True)
        path.rename(tmp_path / f"ct/IM{k}")
    assert ids(tmp_path / "ct") == ["ct_1", "ct_2"]
    assert all(len(scan.paths) == 2 for scan in discover([tmp_path / "ct"]).scans)


@pytest.mark.data
def test_real_folders_become_scans_and_notes(scans: Path) -> None:
    found = discover([scans / "ct_mr_pet_sarcoma_ibsi/dicom", scans / "dicom_ct_seg_dcmqi"])
    names = [scan.name for scan in found.scans]
    series = ["STS_002_CT_image", "STS_002_MR_T1_image", "STS_002_PET_image", "ct-3slice"]
    assert names == [*series, "heart_seg", "liver_seg", "spine_seg"]
    assert sum("no image" in note for note in found.notes) == 5


@pytest.mark.data
def test_the_real_zip_is_ingested_where_it_lies(scans: Path) -> None:
    packed = scans / "large_ct_dicom_sts020/STS_020_CT.zip"
    truth = {"gtv": f"{packed}!STS_020/CT/mask/RS.dcm"}
    other = scans / "nrrd_mr_brain_tumour_pyradiomics/brain1_image.nrrd"
    source, stranger = sorted(discover([packed.parent, other], truth=truth).scans, key=len_of)
    assert not stranger.truth, "a member belongs to the scans of its own zip"
    assert source.name == "STS_020_CT_STS_020_CT_image"
    assert (source.kind, len(source.paths)) == ("dicom", 97)
    scan = source.read()
    assert scan.voxels_czyx.shape == (1, 97, 304, 241)
    assert source.read_truth(scan)["gtv"].voxels_zyx.sum() == 748026


def test_damaged_zips_are_scans_that_fail_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 cut")
    (source,) = discover([tmp_path]).scans
    with pytest.raises(UnreadableScanError, match=r"a\.zip: not a readable zip"):
        source.read()


def test_every_format_of_a_folder_is_found(tmp_path: Path) -> None:
    for name in ("a.nrrd", "b.mha", "c.tif", "d.ome.zarr/zarr.json", "old/archive.json", "e.raw"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as packed:
        for path in series(tmp_path.parent / f"{tmp_path.name}_ct"):
            packed.write(path, f"x/{path.name}")
        packed.writestr("inner.zip", b"")
    found = discover([tmp_path])
    kinds = {scan.name: scan.kind for scan in found.scans}
    assert kinds == {"a": "itk", "b": "itk", "c": "tiff", "d": "ome-zarr", "f_x": "dicom"}
    assert any("1 files of no known kind" in note for note in found.notes)
    assert any("inner.zip: skipped, a zip in a zip" in note for note in found.notes)


def test_pictures_beside_scans_are_no_scans(tmp_path: Path) -> None:
    image(tmp_path / "p1/ct.nii.gz")
    for name in ("p1/preview.png", "p2/a.png", "p2/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = discover([tmp_path])
    assert [scan.name for scan in found.scans] == ["p1_ct", "p2_a", "p2_b"]
    assert any("skipped 1 pictures beside scans" in note for note in found.notes)
    stacked = discover([tmp_path], options=ReadOptions(stack_pictures=True)).scans
    assert [(scan.name, len(scan.paths)) for scan in stacked] == [("p1_ct", 1), ("p2", 2)]


def test_truth_may_be_of_any_format_or_a_folder_of_objects(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 0], [1, 0, 0]], np.uint8)
    places = ("images/a.png", "images/b.png", "masks/a.bmp", "masks/b/1.png", "masks/b/2.png")
    for name in places:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        PIL.Image.fromarray(pixels).save(tmp_path / name)
    a, b = discover([tmp_path / "images"], truth={"ref": str(tmp_path / "masks")}).scans
    assert (a.truth["ref"], b.truth["ref"]) == (tmp_path / "masks/a.bmp", tmp_path / "masks/b")
    for scan in (a, b):
        assert np.array_equal(scan.read_truth(scan.read())["ref"].voxels_zyx[0], pixels)


@pytest.mark.data
def test_real_nuclei_find_their_objects_and_these_are_no_scans(scans: Path) -> None:
    folder = scans / "nuclei_dsb2018_2d"
    found = discover([folder], truth={"nuclei": f"{folder}/{{stem}}/masks"}).scans
    assert len(found) == 29
    assert all(scan.truth["nuclei"].name == "masks" for scan in found)


@pytest.mark.data
def test_every_real_hippocampus_has_its_truth(scans: Path) -> None:
    folder = scans / "mr_hippocampus_msd"
    found = discover([folder], truth={"ref": str(folder / "labels")}).scans
    assert len(found) == 120
    assert all(scan.truth["ref"].name == scan.paths[0].name for scan in found)
    masks = found[7].read_truth(found[7].read(), {"ref": {1: "anterior", 2: "posterior"}})
    assert [c.name for c in masks["ref"].classes] == ["background", "anterior", "posterior"]


@pytest.mark.data
def test_four_real_files_are_the_channels_of_one_volume(scans: Path) -> None:
    patterns = {"FLAIR": "FLAIR_*", "T1": "T1_*", "T2": "T2_*", "T1Gd": "T1POST_*"}
    (source,) = discover([scans / "mr_ms_lesion_4ch"], channels=patterns).scans
    scan = source.read()
    assert (source.name, scan.channels) == ("patient07", ("FLAIR", "T1", "T2", "T1Gd"))
    assert scan.voxels_czyx.shape == (4, 182, 218, 182)
    last = read_nifti(next(scans.glob("mr_ms_lesion_4ch/*/T1POST_*")))
    assert np.array_equal(scan.voxels_czyx[3], last.voxels_czyx[0])


def test_truth_is_found_by_pattern_and_is_no_scan(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        image(tmp_path / patient / "ct.nii.gz")
        image(tmp_path / patient / "ct_mask.nii.gz")
    pattern = f"{tmp_path}/{{folder}}/{{stem}}_mask.nii.gz"
    found = discover([tmp_path], truth={"tumour": pattern}).scans
    assert [scan.name for scan in found] == ["p1_ct", "p2_ct"]
    assert [scan.truth["tumour"].parent.name for scan in found] == ["p1", "p2"]


def test_truth_of_a_dicom_series_is_named_as_its_folder(tmp_path: Path) -> None:
    series(tmp_path / "images/p1/ct")
    image(tmp_path / "masks/p1/ct.nii.gz")
    (scan,) = discover([tmp_path / "images"], truth={"ref": str(tmp_path / "masks")}).scans
    assert scan.truth["ref"] == tmp_path / "masks/p1/ct.nii.gz"


def test_one_mask_for_two_scans_is_refused(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        image(tmp_path / "images" / patient / "ct.nii.gz")
    image(tmp_path / "masks/ct.nii.gz")
    with pytest.raises(SpecError, match=r"fits both p1_ct and p2_ct"):
        discover([tmp_path / "images"], truth={"ref": str(tmp_path / "masks")})


def test_truth_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/a.nii.gz")
    image(tmp_path / "masks/b.nii.gz")
    for place in (f"{tmp_path}/masks", f"{tmp_path}/masks/{{stem}}_x.nii"):
        with pytest.raises(SpecError, match="stem 'a'"):
            discover([tmp_path / "images"], truth={"ref": place})
    with pytest.raises(SpecError, match="expected a folder of masks"):
        discover([tmp_path / "images"], truth={"ref": f"{tmp_path}/missing"})
    with pytest.raises(SpecError, match=r"known are \{folder\}, \{stem\}, \{name\}"):
        discover([tmp_path / "images"], truth={"ref": "{patient}.nii"})


def test_a_mask_on_another_grid_is_named(tmp_path: Path) -> None:
    image(tmp_path / "images/a.nii.gz")
    image(tmp_path / "masks/a.nii.gz", spacing=2)
    (scan,) = discover([tmp_path / "images"], truth={"ref": str(tmp_path / "masks")}).scans
    with pytest.raises(GeometryError, match=r"masks/a\.nii\.gz \(ref\): the mask is not on"):
        scan.read_truth(scan.read())


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "p1/T1.nii.gz")
    image(tmp_path / "p1/T2.nii.gz", spacing=2)
    (scan,) = discover([tmp_path], channels={"T1": "T1*", "T2": "T2*"}).scans
    with pytest.raises(GeometryError, match=r"T2\.nii\.gz: channels of one Volume share one grid"):
        scan.read()


def test_folders_that_lack_a_channel_are_noted(tmp_path: Path) -> None:
    for name in ("p1/T1.nii", "p1/T2.nii", "p2/T1.nii"):
        image(tmp_path / name)
    found = discover([tmp_path], channels={"T1": "T1*", "T2": "T2*"})
    assert [scan.name for scan in found.scans] == ["p1"]
    assert "p2: skipped, no file for channel T2" in found.notes[0]
    with pytest.raises(SpecError, match="matches several files"):
        discover([tmp_path], channels={"T": "T*"})


def test_clashing_ids_are_refused_with_both_paths(tmp_path: Path) -> None:
    image(tmp_path / "p1/ct.nii.gz")
    image(tmp_path / "p2/ct.nii.gz")
    with pytest.raises(SpecError, match=r"(?s)p1/ct\.nii\.gz.*p2/ct\.nii\.gz.*common folder"):
        discover([tmp_path / "p1/ct.nii.gz", tmp_path / "p2/ct.nii.gz"])


def test_folders_without_scans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no scan in"):
        discover([tmp_path])
    (tmp_path / "notes.txt").write_text("no scan")
    with pytest.raises(SpecError, match="1 files of no known kind"):
        discover([tmp_path])


def test_broken_files_are_found_and_named_when_read(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    for name in ("a.nii.gz", "b.nii", "ct/1.dcm"):
        (tmp_path / name).write_text("text that is no scan")
    for scan in discover([tmp_path]).scans:
        with pytest.raises(UnreadableScanError, match=scan.paths[0].name):
            scan.read()
    assert ids(tmp_path) == ["a", "b", "ct"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("a/b", "a_b"), ("../x", "x"), ("Å ß/1", "1"), ("...", "scan"), ("a-1..2", "a-1.2")],
)
def test_names_are_safe_path_segments(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_long_names_are_shortened_and_stay_apart() -> None:
    long, other = safe_name("a" * 200 + "/ct"), safe_name("b" + "a" * 199 + "/ct")
    assert len(long) == len(other) == 128
    assert long != other
    assert long.endswith("a_ct")
