from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.errors import SpecError
from unet_batch.planning.specs.train import SplitSpec
from unet_batch.planning.split import split_volumes

IDS = [f"scan_{number:03d}" for number in range(120)]


def test_a_fifth_of_120_volumes_is_24() -> None:
    split = split_volumes(IDS, SplitSpec(holdout_share=0.2))
    assert (len(split.train), len(split.held_back)) == (96, 24)


@given(st.permutations(IDS[:30]), st.integers(0, 5), st.floats(0, 0.9))
def test_every_volume_is_on_one_side_whatever_the_order(
    ids: list[str], seed: int, share: float
) -> None:
    spec = SplitSpec(holdout_share=share, seed=seed)
    split = split_volumes(ids, spec)
    assert sorted(split.train + split.held_back) == sorted(ids)
    assert split == split_volumes(sorted(ids), spec)


def test_another_seed_holds_back_others() -> None:
    first, second = (split_volumes(IDS, SplitSpec(seed=seed)).held_back for seed in (0, 1))
    assert first != second


def test_a_new_volume_moves_at_most_one_other_across() -> None:
    before = set(split_volumes(IDS, SplitSpec()).held_back)
    after = set(split_volumes([*IDS, "scan_new"], SplitSpec()).held_back)
    assert len(before - after) <= 1


def test_ids_named_are_held_back_and_no_others() -> None:
    split = split_volumes(IDS, SplitSpec(holdout=("scan_007", "scan_003")))
    assert split.held_back == ("scan_003", "scan_007")


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(SpecError, match="scan_999"):
        split_volumes(IDS, SplitSpec(holdout=("scan_999",)))


def test_holding_back_everything_is_refused() -> None:
    with pytest.raises(SpecError, match="no Volume is left to train on"):
        split_volumes(IDS[:2], SplitSpec(holdout=tuple(IDS[:2])))


def test_one_volume_alone_trains() -> None:
    assert split_volumes(["only"], SplitSpec()).train == ("only",)
