"""TIFF: pages, samples and stated voxel sizes; nothing beyond the file is opened."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unet_batch.errors import UnreadableScanError, VoxelError
from unet_batch.formats.tiff import read_tiff

STACK = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)


def saved(path: Path, voxels: Any, **options: Any) -> Path:
    tifffile.imwrite(path, voxels, **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
def test_pages_become_slices(compression: str | None, tmp_path: Path) -> None:
    scan = read_tiff(saved(tmp_path / "a.tif", STACK, compression=compression))
    assert np.array_equal(scan.voxels_czyx[0], STACK)
    assert "1 mm is assumed" in scan.warnings[0]


def test_imagej_states_its_voxel_size(tmp_path: Path) -> None:
    meta = {"axes": "ZYX", "spacing": 3.0, "unit": "um"}
    path = saved(tmp_path / "a.tif", STACK, imagej=True, resolution=(2, 4), metadata=meta)
    scan = read_tiff(path)
    assert scan.spacing_mm == pytest.approx((0.003, 0.00025, 0.0005))
    assert scan.warnings == ()
    assert read_tiff(path, spacing_mm=(3, 2, 1)).spacing_mm == (3, 2, 1)


def test_ome_states_channels_and_voxel_size(tmp_path: Path) -> None:
    meta = {
        "axes": "ZCYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 500,
        "PhysicalSizeYUnit": "nm",
        "PhysicalSizeZ": 2,
        "PhysicalSizeZUnit": "mm",
    }
    scan = read_tiff(saved(tmp_path / "a.ome.tif", np.stack([STACK, STACK + 9], 1), metadata=meta))
    assert np.array_equal(scan.voxels_czyx, np.stack([STACK, STACK + 9]))
    assert scan.spacing_mm == pytest.approx((2, 0.0005, 0.0005))
    assert (scan.name, scan.channels) == ("a", ("0", "1"))


def test_colours_are_channels_and_transparency_is_dropped(tmp_path: Path) -> None:
    pixels = np.arange(6 * 7 * 4, dtype=np.uint8).reshape(6, 7, 4)
    path = tmp_path / "a.tif"
    saved(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    scan = read_tiff(path)
    assert np.array_equal(scan.voxels_czyx[:, 0], np.moveaxis(pixels[..., :3], -1, 0))
    assert scan.channels == ("red", "green", "blue")
    assert "transparency (alpha) was dropped" in scan.warnings


def test_time_series_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(VoxelError, match="axes TYX"):
        read_tiff(path)


def test_files_that_ome_names_are_not_opened(tmp_path: Path) -> None:
    saved(tmp_path / "secret.ome.tif", STACK + 1000)
    (tmp_path / "in").mkdir()
    path = saved(tmp_path / "in/a.ome.tif", STACK[:1])
    xml = tifffile.tiffcomment(path)
    data = '<TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="../secret.ome.tif">x</UUID>'
    begin = xml.index("<TiffData")
    end = xml.index("/>", begin) + 2
    tifffile.tiffcomment(path, (xml[:begin] + data + "</TiffData>" + xml[end:]).encode())
    assert read_tiff(path).voxels_czyx.max() < 1000


def test_a_stack_that_lost_a_page_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in STACK:
            writer.write(page, contiguous=False)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        last = tiff.pages[-1].offset
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:last])
    with pytest.raises(UnreadableScanError, match="page"):
        read_tiff(tmp_path / "a.tif")


def test_absurd_or_cut_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.tif", STACK).read_bytes()
    for content in (whole[: len(whole) // 2], b"II*\x00", b"text", b""):
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(UnreadableScanError, match=r"a\.tif"):
            read_tiff(tmp_path / "a.tif")
    wide = saved(tmp_path / "b.tif", STACK[0], metadata=None).read_bytes()
    tag = struct.pack("<HHII", 256, 3, 1, 7)
    huge = wide.replace(tag[:8], struct.pack("<HHI", 256, 4, 1), 1)
    place = huge.index(struct.pack("<HHI", 256, 4, 1)) + 8
    (tmp_path / "b.tif").write_bytes(huge[:place] + struct.pack("<I", 2**31) + huge[place + 4 :])
    with pytest.raises(UnreadableScanError, match=r"b\.tif"):
        read_tiff(tmp_path / "b.tif")
    with pytest.raises(VoxelError, match="complex64"):
        read_tiff(saved(tmp_path / "c.tif", STACK.astype(np.complex64)))
