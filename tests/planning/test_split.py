from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unet_batch.errors import SpecError
from unet_batch.planning.specs.train import SplitSpec
from unet_batch.planning.split import Split, split_volumes

IDS = [f"scan_{number:03d}" for number in range(120)]


def nobodys(ids: Iterable[str]) -> dict[str, str]:
    """Volumes of no patient that is known."""
    return dict.fromkeys(ids, "")


def test_a_fifth_of_120_volumes_is_24() -> None:
    split = split_volumes(nobodys(IDS), SplitSpec(holdout_share=0.2))
    assert (len(split.train), len(split.held_back)) == (96, 24)


@given(st.permutations(IDS[:30]), st.integers(0, 5), st.floats(0, 0.9))
def test_every_volume_is_on_one_side_whatever_the_order(
    ids: list[str], seed: int, share: float
) -> None:
    spec = SplitSpec(holdout_share=share, seed=seed)
    split = split_volumes(nobodys(ids), spec)
    assert sorted(split.train + split.held_back) == sorted(ids)
    assert split == split_volumes(nobodys(sorted(ids)), spec)


def test_another_seed_holds_back_others() -> None:
    first, second = (split_volumes(nobodys(IDS), SplitSpec(seed=seed)).held_back for seed in (0, 1))
    assert first != second


def test_a_new_volume_moves_at_most_one_other_across() -> None:
    before = set(split_volumes(nobodys(IDS), SplitSpec()).held_back)
    after = set(split_volumes(nobodys([*IDS, "scan_new"]), SplitSpec()).held_back)
    assert len(before - after) <= 1


def test_ids_named_are_held_back_and_no_others() -> None:
    split = split_volumes(nobodys(IDS), SplitSpec(holdout=("scan_007", "scan_003")))
    assert split.held_back == ("scan_003", "scan_007")


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(SpecError, match="scan_999"):
        split_volumes(nobodys(IDS), SplitSpec(holdout=("scan_999",)))


def test_holding_back_everything_is_refused() -> None:
    with pytest.raises(SpecError, match="no Volume is left to train on"):
        split_volumes(nobodys(IDS[:2]), SplitSpec(holdout=tuple(IDS[:2])))


def test_one_volume_alone_trains() -> None:
    assert split_volumes({"only": "somebody"}, SplitSpec()).train == ("only",)


@given(
    st.dictionaries(st.sampled_from(IDS), st.sampled_from(["", "ann", "bob", "cy", "dee"])),
    st.floats(0.05, 0.9),
    st.integers(0, 5),
)
def test_a_patient_is_on_one_side(patients: dict[str, str], share: float, seed: int) -> None:
    assume(len({patient or one for one, patient in patients.items()}) > 1)
    split = split_volumes(patients, SplitSpec(holdout_share=share, seed=seed))
    train, held_back = ({patients[one] for one in side} - {""} for side in sides_of(split))
    assert not train & held_back
    assert split.train
    assert split.held_back
    assert sorted(split.train + split.held_back) == sorted(patients)


def sides_of(split: Split) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return split.train, split.held_back


def test_the_share_is_of_volumes_whole_patients_at_a_time() -> None:
    patients = {one: f"patient {number // 3}" for number, one in enumerate(IDS)}
    assert len(split_volumes(patients, SplitSpec(holdout_share=0.2)).held_back) == 24


def test_volumes_of_nobody_known_are_split_as_if_there_were_no_patients() -> None:
    apart = split_volumes(nobodys(IDS), SplitSpec(by_patient=False))
    assert split_volumes(nobodys(IDS), SplitSpec()) == apart
    alike = dict.fromkeys(IDS, "one and the same")
    assert split_volumes(alike, SplitSpec(by_patient=False)) == apart


def test_one_patient_alone_cannot_be_held_back_from_himself() -> None:
    alike = dict.fromkeys(IDS[:5], "one and the same")
    with pytest.raises(SpecError, match="all 5 Volumes are of one patient"):
        split_volumes(alike, SplitSpec())
    assert split_volumes(alike, SplitSpec(holdout_share=0)).train == tuple(IDS[:5])
    assert split_volumes(alike, SplitSpec(holdout=(IDS[3],))).held_back == (IDS[3],)


@pytest.mark.parametrize("seed", range(20))
def test_a_patient_with_most_of_the_volumes_does_not_swallow_the_split(seed: int) -> None:
    patients = dict.fromkeys(IDS[:30], "one with many") | nobodys(IDS[30:60])
    assert len(split_volumes(patients, SplitSpec(seed=seed)).held_back) == 12


def test_the_smallest_patient_is_held_back_where_all_are_large() -> None:
    patients = dict.fromkeys(IDS[:60], "ann") | dict.fromkeys(IDS[60:100], "bob")
    for seed in range(5):
        held_back = split_volumes(patients, SplitSpec(holdout_share=0.1, seed=seed)).held_back
        assert held_back == tuple(IDS[60:100])
