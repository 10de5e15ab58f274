"""Who wins: the paired test, the margins, and what too few Volumes mean."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from unet_batch.planning.challenge import (
    bootstrap_interval,
    class_means,
    compare,
    judge,
    judge_first,
    pair_of,
    signed_rank_p,
)
from unet_batch.planning.specs.retrain import PromotionSpec

RULES = PromotionSpec()
Scores = dict[str, dict[str, float | None]]


def scores(*dice: float, organ: str = "liver") -> Scores:
    return {f"v{k}": {organ: one} for k, one in enumerate(dice)}


BEFORE = scores(0.70, 0.72, 0.74, 0.76, 0.78, 0.80)
AFTER = scores(0.73, 0.76, 0.76, 0.81, 0.79, 0.86)


def test_a_challenger_that_is_better_everywhere_is_promoted_with_its_reasons() -> None:
    verdict = judge(compare(BEFORE, AFTER), RULES)
    assert verdict.is_promoted
    assert "rose by 0.0350" in verdict.reasons[0]
    assert "p = 0.016" in verdict.reasons[0]


def test_the_same_again_and_the_worse_are_refused() -> None:
    for challenger in (BEFORE, dict(zip(BEFORE, scores(*[0.5] * 6).values(), strict=True))):
        verdict = judge(compare(BEFORE, challenger), RULES)
        assert not verdict.is_promoted
        assert "not shown to be better" in verdict.reasons[0]


def test_one_large_gain_does_not_carry_the_decision() -> None:
    comparison = compare(BEFORE, scores(1.0, 0.715, 0.735, 0.755, 0.775, 0.795))
    assert comparison.difference > 0.04
    assert not judge(comparison, RULES).is_promoted


def test_a_mean_that_fell_is_refused_though_most_volumes_rose() -> None:
    before = scores(*[0.8] * 20)
    after = scores(*[0.8 + k / 1000 for k in range(1, 20)], 0.1)
    comparison = compare(before, after)
    assert comparison.p_value < RULES.alpha
    assert not judge(comparison, RULES).is_promoted


@pytest.mark.parametrize(
    ("num", "alpha", "is_promoted"),
    [(4, 0.05, False), (5, 0.05, True), (5, 0.03, False), (1, 0.5, True)],
)
def test_too_few_volumes_prove_nothing(num: int, alpha: float, is_promoted: bool) -> None:
    before, after = scores(*[0.5] * num), scores(*[0.6 + k / 100 for k in range(num)])
    verdict = judge(compare(before, after), PromotionSpec(alpha=alpha))
    assert verdict.is_promoted is is_promoted
    assert is_promoted or f"{num} held-back Volumes can prove nothing" in verdict.reasons[0]


def test_a_class_that_falls_beyond_the_margin_stops_a_promotion() -> None:
    before: Scores = {f"v{k}": {"liver": 0.5, "spleen": 0.80} for k in range(8)}
    after: Scores = {f"v{k}": {"liver": 0.8 + k / 100, "spleen": 0.77} for k in range(8)}
    verdict = judge(compare(before, after), RULES)
    assert verdict.reasons == ("spleen fell by 0.0300, from 0.8000 to 0.7700; the margin is 0.02",)
    assert judge(compare(before, after), PromotionSpec(margin=0.04)).is_promoted


def test_a_challenger_that_lost_a_class_has_fallen_by_all_of_it() -> None:
    before: Scores = {f"v{k}": {"liver": 0.5, "spleen": 0.8} for k in range(6)}
    after: Scores = {f"v{k}": {"liver": 0.9, "spleen": 0.0} for k in range(6)}
    assert "spleen fell by 0.8" in " ".join(judge(compare(before, after), RULES).reasons)


def test_a_challenger_that_fails_where_the_champion_did_not_stays_one() -> None:
    verdict = judge(compare(BEFORE, AFTER), RULES, failed=["v8", "v9"])
    assert not verdict.is_promoted
    assert "could not segment 2 Volumes" in verdict.reasons[0]


def test_finding_nothing_where_there_is_nothing_is_perfect_beside_a_false_find() -> None:
    pair = pair_of("v", {"liver": 0.9, "lesion": None}, {"liver": 0.9, "lesion": 0.0})
    assert pair is not None
    assert pair.difference == pytest.approx(-0.5)
    assert pair_of("v", {"lesion": None}, {"lesion": None}) is None


def test_only_volumes_of_both_are_compared() -> None:
    comparison = compare({**BEFORE, "other": {"liver": 0.1}}, AFTER)
    assert [pair.volume_id for pair in comparison.pairs] == sorted(AFTER)
    with pytest.raises(ValueError, match="no scored Volume in common"):
        compare({"a": {"liver": 1.0}}, {"b": {"liver": 1.0}})


def test_the_first_champion_has_to_reach_the_minimum() -> None:
    rules = PromotionSpec(minimum_dice=0.75)
    assert judge_first(BEFORE, rules).is_promoted
    refused = judge_first(scores(0.74, 0.75), rules)
    assert not refused.is_promoted
    assert "0.7450 over 2 Volumes stays below minimum_dice, 0.75" in refused.reasons[0]
    assert not judge_first({"v": {"liver": None}}, rules).is_promoted


def test_classes_are_averaged_over_the_volumes_that_hold_them() -> None:
    mixed: Mapping[str, Mapping[str, float | None]] = {
        "a": {"liver": 0.5, "lesion": None},
        "b": {"liver": 0.7, "lesion": 0.4},
    }
    assert class_means(mixed) == pytest.approx({"liver": 0.6, "lesion": 0.4})


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=7))
def test_p_is_the_share_of_sign_patterns_that_would_do_as_well(tenths: list[int]) -> None:
    """The definition of the exact test: every pattern of signs is equally likely."""
    values = np.array(tenths) / 10
    ranks = rankdata(np.abs(values)) * (values != 0)
    reached = ranks[values > 0].sum()
    patterns = product([0, 1], repeat=len(values))
    sums = np.array([ranks[np.array(one, dtype=bool)].sum() for one in patterns])
    expected = float((sums >= reached - 1e-9).mean()) if values.any() else 1.0
    assert signed_rank_p(values.tolist()) == pytest.approx(expected)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_the_interval_lies_within_the_differences(differences: list[float]) -> None:
    low, high = bootstrap_interval(differences)
    assert min(differences) - 1e-12 <= low <= high <= max(differences) + 1e-12


def test_scans_of_one_patient_count_as_one() -> None:
    before, after = scores(*[0.5] * 6), scores(*[0.6 + k / 100 for k in range(6)])
    assert judge(compare(before, after), RULES).is_promoted
    ids = sorted(before)
    two = {one: f"patient {number % 2}" for number, one in enumerate(ids)}
    comparison = compare(before, after, two)
    assert (comparison.num_patients, comparison.p_value) == (2, 0.25)
    verdict = judge(comparison, RULES)
    assert "6 held-back Volumes of 2 patients can prove nothing" in verdict.reasons[0]
    apart = {one: f"patient {one}" for one in ids}
    assert compare(before, after, apart) == compare(before, after)


def test_a_patient_with_many_scans_weighs_no_more_than_another() -> None:
    before = scores(*[0.5] * 8)
    after = scores(0.9, 0.9, 0.9, 0.45, 0.44, 0.43, 0.42, 0.41)
    ids = sorted(before)
    patients = dict.fromkeys(ids[:3], "one of whom there are three")
    comparison = compare(before, after, patients)
    assert comparison.num_patients == 6
    assert comparison.difference == pytest.approx((0.4 - 0.05 - 0.06 - 0.07 - 0.08 - 0.09) / 6)
