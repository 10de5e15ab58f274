"""Partitions share a Job's Volumes out: each in one, whatever the others do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unet_batch.planning.partition import in_partition, partition_of
from unet_batch.planning.specs.segment import PartitionSpec


@given(st.sets(st.text(min_size=1)), st.integers(1, 9))
def test_each_volume_is_in_one_partition(ids: set[str], of: int) -> None:
    volumes = [SimpleNamespace(id=one) for one in sorted(ids)]
    shares = [in_partition(volumes, PartitionSpec(index=k, of=of)) for k in range(of)]
    assert sorted(one.id for share in shares for one in share) == sorted(ids)


def test_without_partitions_all_are_ones_own() -> None:
    volumes = [SimpleNamespace(id="a"), SimpleNamespace(id="b")]
    assert in_partition(volumes, None) == volumes


def test_shares_are_even_and_do_not_move_when_volumes_are_added() -> None:
    sizes = [0] * 8
    for k in range(8000):
        sizes[partition_of(f"ct_{k:05d}", 8)] += 1
    assert max(sizes) < 1.1 * 1000
    assert partition_of("ct_00001", 8) == 4  # a fixed number: other machines must agree


def test_a_partition_that_is_none_of_them_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected 0 to 3, of 4"):
        PartitionSpec(index=4, of=4)
