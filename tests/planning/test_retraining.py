"""Who is held back, what is new, and when there is nothing to train on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.errors import SpecError
from unet_batch.planning.model_versions import DataUse, UsedVolume
from unet_batch.planning.retraining import (
    Round,
    new_since,
    request_digest,
    split,
    watched,
    why_not_to_train,
)
from unet_batch.planning.specs.retrain import HeldBackSpec, RetrainSpec
from unet_batch.planning.specs.train import SplitSpec

RULE = HeldBackSpec()
SPEC = RetrainSpec(archive="a", truth="truth", model="organ", work="w", min_new=2)


def volumes(*numbers: int, truth: str = "t") -> list[UsedVolume]:
    return [UsedVolume(volume_id=f"v{k}", content_hash=f"h{k}", truth_key=truth) for k in numbers]


@given(st.sets(st.integers(0, 200), min_size=8, max_size=60), st.sets(st.integers(201, 260)))
def test_later_volumes_never_move_earlier_ones_across(first: set[int], later: set[int]) -> None:
    before = split(volumes(*first), RULE)
    after = split(volumes(*first, *later), RULE, known=before)
    assert set(before.held_back) <= set(after.held_back)
    assert set(before.train) <= set(after.train)
    assert len(after.train) + len(after.held_back) == len(first | later)


def test_the_share_is_about_what_was_asked_for_and_the_seed_another_draw() -> None:
    many = volumes(*range(2000))
    held_back = split(many, RULE).held_back
    assert len(held_back) == pytest.approx(400, abs=60)
    assert split(many, HeldBackSpec(seed=1)).held_back != held_back


def test_a_volume_is_judged_by_its_content_and_not_by_its_name() -> None:
    many = volumes(*range(50))
    renamed = [one.model_copy(update={"volume_id": f"x{one.volume_id}"}) for one in many]
    before, after = split(many, RULE), split(renamed, RULE)
    assert {v.content_hash for v in before.held_back} == {v.content_hash for v in after.held_back}


def test_what_the_champion_learnt_from_is_never_held_back_from_its_challenger() -> None:
    everything = DataUse(train=tuple(volumes(*range(50))))
    after = split(volumes(*range(80)), RULE, known=everything)
    assert set(everything.train) <= set(after.train)
    assert after.held_back


def of_patients(*numbers: int) -> list[UsedVolume]:
    """Three Volumes of each patient: h0, h1 and h2 are of p0, and so on."""
    return [one.model_copy(update={"patient": f"p{k // 3}"}) for k, one in numbered(*numbers)]


def numbered(*numbers: int) -> list[tuple[int, UsedVolume]]:
    return list(zip(numbers, volumes(*numbers), strict=True))


@given(st.sets(st.integers(0, 90), min_size=9), st.sets(st.integers(0, 120)))
def test_no_patient_is_learnt_from_and_judged_on(first: set[int], later: set[int]) -> None:
    before = split(of_patients(*first), RULE)
    after = split(of_patients(*first | later), RULE, known=before)
    for use in (before, after):
        assert not patients_of(use.train) & patients_of(use.held_back)
    assert set(before.held_back) <= set(after.held_back)
    assert set(before.train) <= set(after.train)


def patients_of(used: tuple[UsedVolume, ...]) -> set[str]:
    return {one.patient for one in used}


def test_patients_are_split_like_volumes_where_that_is_wanted() -> None:
    rule = HeldBackSpec(by_patient=False)
    by_content = split(volumes(*range(60)), RULE)
    use = split(of_patients(*range(60)), rule)
    assert hashes(use.held_back) == hashes(by_content.held_back)
    assert patients_of(use.train) & patients_of(use.held_back)


def hashes(used: tuple[UsedVolume, ...]) -> list[str]:
    return [one.content_hash for one in used]


@pytest.mark.parametrize("is_held_back", [True, False])
def test_a_new_scan_follows_its_patient_where_the_champion_named_no_patients(
    is_held_back: bool,
) -> None:
    """A Bundle that was added by hand: its Volumes are found by what they contain."""
    sides = {"held_back" if is_held_back else "train": tuple(volumes(0, 3, 6))}
    others = {"train" if is_held_back else "held_back": tuple(volumes(9))}
    use = split(of_patients(*range(12)), RULE, known=DataUse(**sides, **others))
    wanted = use.held_back if is_held_back else use.train
    assert {f"h{k}" for k in range(9)} == set(hashes(wanted))


def test_a_scan_that_is_there_twice_goes_with_its_patient() -> None:
    """Once as DICOM, which names the patient, and once as NIfTI, which does not."""
    dicom, other, *rest = of_patients(0, 1, 3, 6, 9, 12)
    nifti = dicom.model_copy(update={"volume_id": "nifti", "patient": ""})
    for seed in range(60):
        use = split([nifti, dicom, other, *rest], HeldBackSpec(seed=seed))
        sides = {one.volume_id in {v.volume_id for v in use.train} for one in (nifti, dicom, other)}
        assert len(sides) == 1


def test_a_training_on_one_patient_is_not_watched() -> None:
    rule = SplitSpec(holdout_share=0.1)
    assert watched(of_patients(0, 1, 3), rule) == rule
    assert watched(volumes(0, 1), rule) == rule
    assert watched(of_patients(0, 1, 2), rule).holdout_share == 0
    apart = rule.model_copy(update={"by_patient": False})
    assert watched(of_patients(0, 1, 2), apart) == apart


def test_one_patient_alone_is_told_apart_from_too_few_volumes() -> None:
    with pytest.raises(SpecError, match=r"held_back\.by_patient: false"):
        split(of_patients(0, 1, 2), RULE)


def test_some_volume_is_held_back_however_few_there_are() -> None:
    rule = HeldBackSpec(share=1e-6)
    for first in range(20):
        use = split(volumes(first, first + 1), rule)
        assert (len(use.train), len(use.held_back)) == (1, 1)


def test_nothing_to_learn_from_or_to_judge_on_is_said() -> None:
    with pytest.raises(SpecError, match="is left to learn from"):
        split(volumes(1), RULE)
    with pytest.raises(SpecError, match="is left to be held back"):
        split(volumes(1, 2), RULE, known=DataUse(train=tuple(volumes(1, 2))))


def test_new_is_what_was_not_used_or_has_another_truth_now() -> None:
    known = DataUse(train=tuple(volumes(1, 2)), held_back=tuple(volumes(3)))
    corrected = volumes(2, truth="corrected")
    assert new_since([*volumes(1, 3, 4), *corrected], known) == (*volumes(4), *corrected)
    assert new_since(volumes(1), None) == tuple(volumes(1))


def test_a_bundle_that_knows_no_truths_makes_none_of_its_scans_new() -> None:
    assert new_since(volumes(1), DataUse(train=tuple(volumes(1, truth="")))) == ()


def test_too_few_new_volumes_are_no_reason_to_train() -> None:
    champion = {"organ@1": split(volumes(*range(10)), RULE)}
    why = why_not_to_train(SPEC, volumes(*range(11)), known=champion)
    assert why is not None
    assert "1 of 11 Volumes with the truth 'truth' are new since organ@1" in why
    assert why_not_to_train(SPEC, volumes(*range(12)), known=champion) is None
    assert why_not_to_train(SPEC, volumes(1), known={}) is None


def test_what_was_refused_last_night_is_not_trained_again_tonight() -> None:
    known = {
        "organ@1": split(volumes(*range(10)), RULE),
        "organ@2": split(volumes(*range(20)), RULE),
    }
    why = why_not_to_train(SPEC, volumes(*range(20)), known=known)
    assert why is not None
    assert "new since organ@2" in why
    assert why_not_to_train(SPEC, volumes(*range(22)), known=known) is None
    always = SPEC.model_copy(update={"min_new": 0})
    assert why_not_to_train(always, volumes(0), known=known) is None


def test_a_request_is_told_by_what_decides_the_network_alone() -> None:
    same = SPEC.model_copy(update={"min_new": 9, "max_pictures": 0, "published": "net"})
    assert request_digest(same) == request_digest(SPEC)
    workers = {"train": {"resources": {"workers": 2}}}
    assert request_digest(SPEC.model_validate(SPEC.model_dump() | workers)) == request_digest(SPEC)
    longer = SPEC.model_validate(SPEC.model_dump() | {"train": {"training": {"steps": 9}}})
    assert request_digest(longer) != request_digest(SPEC)
    assert request_digest(SPEC.model_copy(update={"where": "id = 'a'"})) != request_digest(SPEC)


def test_a_round_keeps_its_id_until_it_is_finished() -> None:
    begun = Round(request="r", champion=1, data=split(volumes(*range(9)), RULE), num_new=3)
    assert begun.model_copy(update={"challenger": 2, "is_finished": True}).id == begun.id
    assert begun.model_copy(update={"champion": 2}).id != begun.id
