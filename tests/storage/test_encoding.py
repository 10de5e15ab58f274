"""zarr-python reads what `Encoding` writes; damage is found."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from unet_batch.storage.encoding import Encoding

from .encoded import written

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int64", "float16", "float32", "float64")


def opened(objects: dict[str, bytes]) -> zarr.Array[Any]:
    """The array of these objects, as zarr-python sees it."""
    buffers = {key: cpu.Buffer.from_bytes(content) for key, content in objects.items()}
    return zarr.open_array(store=MemoryStore(buffers), mode="r", zarr_format=3)


@given(
    st.sampled_from(DTYPES),
    st.sampled_from(["blosc", "zstd"]),
    st.lists(
        st.tuples(st.integers(1, 11), st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3
    ),
    st.integers(0, 2**32 - 1),
)
def test_zarr_python_reads_back_every_voxel(
    dtype: str, compression: Literal["blosc", "zstd"], axes: list[tuple[int, int, int]], seed: int
) -> None:
    shape = tuple(n for n, _, _ in axes)
    chunk = tuple(c for _, c, _ in axes)
    encoding = Encoding(dtype, chunk, tuple(c * k for _, c, k in axes), compression)
    voxels = np.random.default_rng(seed).integers(0, 3, shape).astype(dtype)
    array = opened(written(voxels, encoding))
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array[...], voxels)


def test_nan_and_infinity_survive() -> None:
    voxels = np.array([[np.nan, np.inf, -np.inf, 0, 1, 2]], dtype=np.float32)
    array = opened(written(voxels, Encoding("float32", (1, 2), (1, 6), "blosc")))
    np.testing.assert_array_equal(array[...], voxels)


def test_big_endian_voxels_are_stored_little_endian() -> None:
    voxels = np.arange(6, dtype=">i2").reshape(2, 3)
    array = opened(written(voxels, Encoding("int16", (2, 3), (2, 3), "blosc")))
    np.testing.assert_array_equal(array[...], voxels)


def test_equal_voxels_give_equal_bytes_whatever_their_memory_order() -> None:
    voxels = np.random.default_rng(0).integers(0, 5, (20, 30), dtype=np.uint8)
    encoding = Encoding("uint8", (8, 8), (32, 32), "zstd")
    assert encoding.encode(voxels) == encoding.encode(np.asfortranarray(voxels))


def test_background_costs_only_its_index_entries() -> None:
    encoding = Encoding("uint8", (64, 64, 64), (128, 128, 128), "zstd")
    content = encoding.encode(np.zeros((128, 128, 128), dtype=np.uint8))
    assert len(content) == 8 * 16 + 4  # the index of eight Chunks and its checksum


@pytest.mark.parametrize("shard", [(8, 8), (16, 16)])
@pytest.mark.parametrize("position", [20, -2])
def test_a_flipped_bit_is_an_error_not_a_wrong_voxel(shard: tuple[int, ...], position: int) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, shard, dtype=np.uint8)
    objects = written(voxels, Encoding("uint8", (8, 8), shard, "zstd"))
    damaged = bytearray(objects["c.0.0"])
    damaged[position] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        opened({**objects, "c.0.0": bytes(damaged)})[...]
