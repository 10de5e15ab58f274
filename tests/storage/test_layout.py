"""Chunks and Shards follow from the shape."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.storage.layout import MAX_SINGLE_CHUNK_VOXELS, Layout, layout_for

shapes = st.tuples(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4000))


@pytest.mark.parametrize(
    ("shape", "chunk", "shard"),
    [
        ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
        ((40, 40, 40), (40, 40, 40), (40, 40, 40)),
        ((128, 128, 128), (128, 128, 128), (128, 128, 128)),
        ((256, 256, 256), (64, 64, 64), (256, 256, 256)),
        ((300, 512, 512), (60, 64, 64), (180, 256, 256)),
        ((9, 1024, 1024), (9, 128, 128), (9, 1024, 1024)),
        ((1, 2048, 2048), (1, 512, 512), (1, 2048, 2048)),
        ((2048, 2048, 2048), (64, 64, 64), (256, 256, 256)),
    ],
)
def test_layout_of_typical_scans(
    shape: tuple[int, int, int], chunk: tuple[int, int, int], shard: tuple[int, int, int]
) -> None:
    assert layout_for(shape) == Layout(chunk, shard)


@given(shapes)
def test_a_shard_is_whole_chunks(shape: tuple[int, int, int]) -> None:
    layout = layout_for(shape)
    assert all(s % c == 0 for s, c in zip(layout.shard_zyx, layout.chunk_zyx, strict=True))


@given(shapes)
def test_chunks_neither_exceed_the_volume_nor_their_size(shape: tuple[int, int, int]) -> None:
    layout = layout_for(shape)
    assert all(c <= n for c, n in zip(layout.chunk_zyx, shape, strict=True))
    limit = 64**3 if layout.is_sharded else MAX_SINGLE_CHUNK_VOXELS
    assert prod(layout.chunk_zyx) <= limit


@given(shapes)
def test_little_of_the_last_chunk_is_padding(shape: tuple[int, int, int]) -> None:
    for n, chunk in zip(shape, layout_for(shape).chunk_zyx, strict=True):
        num_chunks = -(-n // chunk)
        assert num_chunks * chunk - n < num_chunks


@given(shapes)
def test_shards_are_few_and_bounded(shape: tuple[int, int, int]) -> None:
    layout = layout_for(shape)
    # At most one Chunk more than the target along each axis.
    slack = prod((s + c) / s for s, c in zip(layout.shard_zyx, layout.chunk_zyx, strict=True))
    assert prod(layout.shard_zyx) <= 256**3 * slack
    num_shards = prod(-(-n // s) for n, s in zip(shape, layout.shard_zyx, strict=True))
    assert num_shards <= 8 * prod(shape) / 256**3 * 8 + 8
