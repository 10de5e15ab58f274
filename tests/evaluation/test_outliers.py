"""Volumes that stand out by their class volumes, without a truth."""

from __future__ import annotations

import numpy as np

from unet_batch.evaluation.outliers import volume_outlyingness


def ordinary(count: int = 20) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    return {f"v{k:02}": [float(rng.normal(1500, 150))] for k in range(count)}


def ranked(class_ml: dict[str, list[float]]) -> list[str]:
    far = volume_outlyingness(class_ml)
    return sorted(far, key=lambda name: -far[name])


def test_an_empty_mask_comes_first_and_then_the_implausible_ones() -> None:
    volumes = ordinary() | {"half": [700.0], "empty": [0.0], "huge": [9000.0]}
    assert ranked(volumes)[:3] == ["empty", "huge", "half"]


def test_half_and_double_are_equally_far() -> None:
    far = volume_outlyingness({"a": [10.0], "b": [10.0], "c": [10.0], "s": [5.0], "l": [20.0]})
    assert np.isclose(far["s"], far["l"])
    assert far["a"] == 0.0


def test_a_class_most_volumes_lack_makes_no_outlier_of_them() -> None:
    far = volume_outlyingness({"a": [10.0, 0.0], "b": [10.0, 0.0], "c": [10.0, 3.0]})
    assert set(far.values()) == {0.0}


def test_a_volume_without_the_class_is_not_measured_by_it() -> None:
    nan = float("nan")
    assert volume_outlyingness({"a": [10.0], "b": [10.0], "c": [nan]})["c"] == 0.0


def test_no_volumes_have_no_outliers() -> None:
    assert volume_outlyingness({}) == {}
