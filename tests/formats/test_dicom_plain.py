"""Plain files: the same values and pixels as pydicom finds, and nothing that is not plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from unet_batch.formats import dicom_frames
from unet_batch.formats.dicom import _SORTING_TAGS, write_dicom_series
from unet_batch.formats.dicom_file import TECHNICAL
from unet_batch.formats.dicom_frames import read_slices
from unet_batch.formats.dicom_plain import peek, plain_pixels, read_plain
from unet_batch.formats.phantom import phantom

KEYWORDS = ("ImagePositionPatient", "PixelSpacing", "RescaleSlope", "Modality", *TECHNICAL)


@pytest.fixture(scope="module")
def slice_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scan, _ = phantom(0, shape_zyx=(2, 7, 9))
    return write_dicom_series(tmp_path_factory.mktemp("series"), scan)[0]


def as_texts(value: Any) -> list[str]:
    several = isinstance(value, list) or type(value).__name__ == "MultiValue"
    return [str(one) for one in value] if several else [str(value)]


def assert_like_pydicom(path: Path) -> bool:
    plain = read_plain(path, KEYWORDS)
    if plain is None:
        return False
    dataset = pydicom.dcmread(path)
    assert np.array_equal(plain_pixels(plain), dataset.pixel_array)
    assert plain_pixels(plain).dtype == dataset.pixel_array.dtype
    for keyword in KEYWORDS:
        expected = dataset.get(keyword)
        assert as_texts(plain.attributes.get(keyword) or "") == as_texts(expected or "")
    return True


def test_a_slice_of_ours_is_plain(slice_file: Path) -> None:
    assert assert_like_pydicom(slice_file)


def test_pydicoms_own_files_read_alike_where_they_are_plain() -> None:
    files = sorted(Path(get_testdata_file("CT_small.dcm", download=False)).parent.glob("*.dcm"))
    assert sum(assert_like_pydicom(path) for path in files) >= 4


@pytest.mark.data
def test_real_slices_are_plain_and_read_alike(scans: Path) -> None:
    folders = {path.parent: path for path in scans.rglob("*.dcm")}
    plain = [assert_like_pydicom(path) for path in folders.values()]
    assert plain.count(True) >= 5


@pytest.mark.data
def test_slices_are_those_that_pydicom_reads(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in sorted(scans.rglob("*.dcm")) if read_plain(path, KEYWORDS))
    (fast,) = read_slices(path)
    monkeypatch.setattr(dicom_frames, "read_plain", lambda *_: None)
    (slow,) = read_slices(path)
    assert np.array_equal(fast.pixels_yx, slow.pixels_yx)
    assert fast.pixels_yx.dtype == slow.pixels_yx.dtype
    assert (fast.modality, fast.metadata) == (slow.modality, slow.metadata)
    assert np.array_equal(fast.plane.position, slow.plane.position)
    assert fast.plane.spacing_yx_mm == slow.plane.spacing_yx_mm


def test_a_head_tells_what_sorts_files(slice_file: Path) -> None:
    head, dataset = peek(slice_file, _SORTING_TAGS), pydicom.dcmread(slice_file)
    assert head is not None
    assert head.class_uid == dataset.SOPClassUID
    for keyword in _SORTING_TAGS:
        assert as_texts(head.attributes.get(keyword) or "") == as_texts(dataset.get(keyword) or "")


@given(st.integers(1, 15), st.booleans(), st.integers(0, 2**16 - 1))
def test_bits_above_those_stored_do_not_count(
    slice_file: Path, stored: int, is_signed: bool, value: int
) -> None:
    dataset: Any = pydicom.dcmread(slice_file)
    dataset.BitsStored, dataset.HighBit = stored, stored - 1
    dataset.PixelRepresentation = int(is_signed)
    dataset.PixelData = np.full((7, 9), value, "<u2").tobytes()
    path = slice_file.with_name("bits.dcm")
    dataset.save_as(path)
    assert assert_like_pydicom(path)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SamplesPerPixel", 3),
        ("PhotometricInterpretation", "MONOCHROME1"),
        ("NumberOfFrames", 2),
        ("BitsAllocated", 32),
        ("Rows", 8),
        ("ModalityLUTSequence", [pydicom.Dataset()]),
    ],
)
def test_what_is_unusual_is_left_to_pydicom(slice_file: Path, keyword: str, value: Any) -> None:
    dataset: Any = pydicom.dcmread(slice_file)
    setattr(dataset, keyword, value)
    path = slice_file.with_name("unusual.dcm")
    dataset.save_as(path)
    assert read_plain(path, KEYWORDS) is None


@given(st.data())
def test_a_mutant_is_plain_or_not_but_never_an_error(slice_file: Path, data: st.DataObject) -> None:
    content = bytearray(slice_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = slice_file.with_name("mutant.dcm")
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    peek(path, _SORTING_TAGS)
    found = read_plain(path, KEYWORDS)
    assert found is None or plain_pixels(found).size
