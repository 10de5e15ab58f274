"""A Blosc frame whose length is wrong is refused; without the check it is read past its end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec

from unet_batch.errors import UnreadableScanError
from unet_batch.formats import blosc_frames, ngff

VOXELS = np.arange(6 * 8 * 8, dtype=np.int16).reshape(6, 8, 8)
LENGTH_AT = 12


def write(path: Path, zarr_format: int, **how: Any) -> None:
    """An OME-Zarr image in Blosc frames."""
    group: Any = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    compressors = BloscCodec() if zarr_format == 3 else Blosc()
    group.create_array("0", data=VOXELS, **({"compressors": compressors} | how))
    axes = [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    found = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}
    group.attrs.update({"ome": {"version": "0.5", **found}} if zarr_format == 3 else found)


def chunk_of(path: Path) -> Path:
    (chunk,) = (
        one for one in path.rglob("*") if one.is_file() and one.name.removeprefix(".")[:1] in "0c"
    )
    return chunk


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_good_frame_is_read(tmp_path: Path, zarr_format: int) -> None:
    write(tmp_path / "a.zarr", zarr_format)
    scan = ngff.read_ome_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(scan.voxels_czyx[0], VOXELS)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("bit", [1, 10, 16, 29])
def test_a_flipped_bit_of_its_length_is_told(tmp_path: Path, zarr_format: int, bit: int) -> None:
    write(tmp_path / "a.zarr", zarr_format)
    chunk = chunk_of(tmp_path / "a.zarr")
    content = bytearray(chunk.read_bytes())
    (length,) = struct.unpack_from("<I", content, LENGTH_AT)
    assert length == len(content), "this is where a frame's length is"
    struct.pack_into("<I", content, LENGTH_AT, length ^ 1 << bit)
    chunk.write_bytes(content)
    with pytest.raises(UnreadableScanError) as caught:
        ngff.read_ome_zarr(tmp_path / "a.zarr")
    said = f"a Blosc frame of {length} bytes says that it has {length ^ 1 << bit}"
    assert said in str(caught.value)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kept", [0, 5, 15, 16, 100])
def test_a_frame_cut_short_is_told(tmp_path: Path, zarr_format: int, kept: int) -> None:
    write(tmp_path / "a.zarr", zarr_format)
    chunk = chunk_of(tmp_path / "a.zarr")
    chunk.write_bytes(chunk.read_bytes()[:kept])
    with pytest.raises(UnreadableScanError, match=f"a Blosc frame of {kept} bytes"):
        ngff.read_ome_zarr(tmp_path / "a.zarr")


def test_frames_in_shards_are_checked(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", 3, chunks=(6, 8, 8), shards=(6, 8, 8))
    chunk = chunk_of(tmp_path / "a.zarr")
    content = bytearray(chunk.read_bytes())
    content[LENGTH_AT + 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(UnreadableScanError, match="a Blosc frame of"):
        ngff.read_ome_zarr(tmp_path / "a.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_finds_the_checked_codec(tmp_path: Path, zarr_format: int) -> None:
    write(tmp_path / "a.zarr", zarr_format)
    array = zarr.open_array(str(tmp_path / "a.zarr"), path="0", mode="r")
    (codec,) = array.compressors
    expected = blosc_frames.CheckedBloscCodec if zarr_format == 3 else blosc_frames.CheckedBlosc
    assert type(codec) is expected
