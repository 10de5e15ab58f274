"""Whether a challenger is better than the champion: paired scores in, a verdict with reasons out.

Both were scored on the same Volumes, so what counts are differences within Volumes:

    Volume   champion   challenger   difference
    a          0.91        0.93        +0.02     a Volume's score is the mean of its classes;
    b          0.40        0.62        +0.22     Wilcoxon's signed-rank test asks whether the
    c          0.88        0.87        -0.01     differences are above zero

The test is one-sided and exact for few Volumes (F. Wilcoxon, Individual comparisons by ranking
methods, Biometrics Bulletin 1(6), 1945; zero differences after J. Pratt, JASA 54, 1959). Ranks
rather than means, since Dice is bounded and skewed: one Volume that went from lost to found
must not carry the decision alone. Volumes of one patient count as one, by their mean. n of them
can at best give p = 2^-n, so that fewer than log2(1 / alpha) of them, 5 for 0.05, prove nothing,
and the champion stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType

import numpy as np
from scipy import stats

from unet_batch.planning.specs.retrain import PromotionSpec

Dice = Mapping[str, float | None]
"""Dice by class of one Volume; None where neither mask nor truth holds the class."""

RESAMPLES = 2000
"""Of the bootstrap: the interval's ends vary by less than what three decimals show."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """One Volume: both models' Dice by class, over the classes that either or the truth holds."""

    volume_id: str
    champion: Mapping[str, float]
    challenger: Mapping[str, float]

    @property
    def difference(self) -> float:
        """Mean Dice of the challenger less that of the champion."""
        return fmean(self.challenger.values()) - fmean(self.champion.values())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Champion and challenger on the same Volumes.

    Attributes
    ----------
    pairs: the Volumes, by id.
    champion, challenger: mean Dice by class, over the Volumes that hold it.
    difference: mean over patients; interval: its 95 % bootstrap interval.
    p_value: of the one-sided test that the differences are above zero.
    num_patients: those whose Volumes were scored; a Volume of nobody known counts as one.
    """

    pairs: tuple[ScoredPair, ...]
    champion: Mapping[str, float]
    challenger: Mapping[str, float]
    difference: float
    interval: tuple[float, float]
    p_value: float
    num_patients: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger becomes the champion, and every reason for that."""

    is_promoted: bool
    reasons: tuple[str, ...]


def compare(
    champion: Mapping[str, Dice],
    challenger: Mapping[str, Dice],
    patients: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """The Comparison of two models' Dice by Volume id and class; Volumes of both count.

    `patients` tells whose Volumes they are, where that is known: scans of one patient are no
    independent evidence, so that their mean difference counts as one. Where one model rightly finds
    nothing (None) and the other finds what is not there (0), the former counts as 1. Raises
    ValueError where the two have no scored Volume in common.
    """
    common = sorted(champion.keys() & challenger.keys())
    found = (pair_of(one, champion[one], challenger[one]) for one in common)
    pairs = tuple(pair for pair in found if pair is not None)
    if not pairs:
        raise ValueError("champion and challenger have no scored Volume in common")
    by_patient: dict[str, list[float]] = {}
    for pair in pairs:
        key = patients.get(pair.volume_id) or f"volume {pair.volume_id}"
        by_patient.setdefault(key, []).append(pair.difference)
    differences = [fmean(of_one) for of_one in by_patient.values()]
    return Comparison(
        pairs=pairs,
        champion=_class_means([pair.champion for pair in pairs]),
        challenger=_class_means([pair.challenger for pair in pairs]),
        difference=fmean(differences),
        interval=bootstrap_interval(differences),
        p_value=signed_rank_p(differences),
        num_patients=len(differences),
    )


def judge(comparison: Comparison, rules: PromotionSpec, *, failed: Sequence[str] = ()) -> Verdict:
    """Promoted only if the test says better, the mean rose, and no class fell too far.

    `failed` are Volumes that the champion could segment and the challenger could not: with any
    of them it stays what it is.
    """
    against = [
        *_too_little_evidence(comparison, rules),
        *_fallen_classes(comparison, rules.margin),
    ]
    if failed:
        against.append(
            f"it could not segment {len(failed)} Volumes that the champion could:"
            f" {', '.join(failed[:5])}{', ...' if len(failed) > 5 else ''}"
        )
    if against:
        return Verdict(is_promoted=False, reasons=tuple(against))
    low, high = comparison.interval
    return Verdict(
        is_promoted=True,
        reasons=(
            f"mean Dice rose by {comparison.difference:.4f} (95 % interval {low:.4f} to"
            f" {high:.4f}) over {_extent(comparison)}: p = {comparison.p_value:.2g}, at"
            f" most {rules.alpha:g} was asked for",
            f"no class fell by more than {rules.margin:g}",
        ),
    )


def judge_first(scores: Mapping[str, Dice], rules: PromotionSpec) -> Verdict:
    """Without a champion: promoted where the mean Dice over classes reaches the minimum."""
    means = _class_means(list(scores.values()))
    if not means:
        return Verdict(is_promoted=False, reasons=("no held-back Volume holds any class",))
    mean = fmean(means.values())
    is_enough = mean >= rules.minimum_dice
    reaches = "reaches" if is_enough else "stays below"
    reason = (
        f"there is no champion yet, and its mean Dice of {mean:.4f} over {len(scores)} Volumes"
        f" {reaches} minimum_dice, {rules.minimum_dice:g}"
    )
    return Verdict(is_promoted=is_enough, reasons=(reason,))


def class_means(scores: Mapping[str, Dice]) -> dict[str, float]:
    """Mean Dice of each class over the Volumes that hold it."""
    return _class_means(list(scores.values()))


def pair_of(volume_id: str, champion: Dice, challenger: Dice) -> ScoredPair | None:
    """Both models' Dice over the classes that either was scored for; None where there is none."""
    names = [
        name
        for name in dict.fromkeys([*champion, *challenger])
        if champion.get(name) is not None or challenger.get(name) is not None
    ]
    if not names:
        return None
    return ScoredPair(
        volume_id,
        {name: _or_perfect(champion.get(name)) for name in names},
        {name: _or_perfect(challenger.get(name)) for name in names},
    )


def signed_rank_p(differences: Sequence[float]) -> float:
    """How likely such differences are by chance, were none above zero: Wilcoxon, one-sided.

    1 where all are zero. Exact up to 13 Volumes, and up to 50 where no two differ alike.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.any():
        return 1.0
    result = stats.wilcoxon(values, alternative="greater", zero_method="pratt", method="auto")
    return float(result.pvalue)


def bootstrap_interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean: percentiles over resampled Volumes (Efron, 1979)."""
    values = np.asarray(differences, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _extent(comparison: Comparison, which: str = "") -> str:
    """On how much the Comparison rests, in words."""
    volumes = f"{len(comparison.pairs)} {which}Volumes"
    are_independent = comparison.num_patients == len(comparison.pairs)
    return volumes if are_independent else f"{volumes} of {comparison.num_patients} patients"


def _too_little_evidence(comparison: Comparison, rules: PromotionSpec) -> list[str]:
    num, needed = comparison.num_patients, math.ceil(-math.log2(rules.alpha) - 1e-9)
    low, high = comparison.interval
    if num < needed:
        return [
            f"{_extent(comparison, 'held-back ')} can prove nothing at alpha = {rules.alpha:g}; it"
            f" takes {needed}: label more, or raise held_back.share"
        ]
    if comparison.difference <= 0 or comparison.p_value > rules.alpha:
        return [
            f"not shown to be better: mean Dice changed by {comparison.difference:+.4f} (95 %"
            f" interval {low:+.4f} to {high:+.4f}) over {_extent(comparison)}, p ="
            f" {comparison.p_value:.2g}, at most {rules.alpha:g} was asked for"
        ]
    return []


def _fallen_classes(comparison: Comparison, margin: float) -> list[str]:
    falls = {
        name: comparison.champion[name] - comparison.challenger[name]
        for name in comparison.champion
    }
    return [
        f"{name} fell by {fall:.4f}, from {comparison.champion[name]:.4f} to"
        f" {comparison.challenger[name]:.4f}; the margin is {margin:g}"
        for name, fall in falls.items()
        if fall > margin
    ]


def _class_means(scores: Sequence[Dice]) -> dict[str, float]:
    names = dict.fromkeys(name for one in scores for name in one)
    known = {name: [d for s in scores if (d := s.get(name)) is not None] for name in names}
    return {name: fmean(values) for name, values in known.items() if values}


def _or_perfect(dice: float | None) -> float:
    return 1.0 if dice is None else dice
