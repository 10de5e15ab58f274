from __future__ import annotations

import numpy as np

from unet_batch.training.foreground import Foreground


def lesions() -> np.ndarray:
    """Class 1: one lesion of 1000 voxels, one of 2 that touch at a corner; class 2: one voxel."""
    truth = np.zeros((30, 20, 20), np.uint8)
    truth[:10, :10, :10] = 1
    truth[25, 15, 15] = truth[26, 16, 16] = 1
    truth[20, 2, 2] = 2
    return truth


def cells(truth: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    return [((0, 0, 0), truth[:15]), ((15, 0, 0), truth[15:])]


def draw(foreground: Foreground, index: int, number: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([foreground.draw(index, rng) for _ in range(number)])


def test_locations_have_the_class_and_reach_all_of_it() -> None:
    truth = lesions()
    found = Foreground.find(cells(truth), 4, by="class")
    drawn = draw(found, 1)
    assert (truth[tuple(drawn.T)] == 1).all()
    assert len(np.unique(drawn[:, 0])) >= 10
    assert {tuple(one) for one in draw(found, 2)} == {(20, 2, 2)}


def test_a_small_object_is_drawn_as_often_as_a_large_one() -> None:
    found = Foreground.find(cells(lesions()), 4, by="object")
    small = (draw(found, 1)[:, 0] > 20).mean()
    assert 0.4 < small < 0.6
    by_class = Foreground.find(cells(lesions()), 4, by="class")
    assert (draw(by_class, 1)[:, 0] > 20).mean() < 0.05


def test_a_class_that_is_not_there_has_no_location() -> None:
    for by in ("class", "object"):
        found = Foreground.find(cells(lesions()), 4, by=by)  # type: ignore[arg-type]
        assert found.draw(3, np.random.default_rng(0)) is None


def test_no_more_is_kept_than_is_needed() -> None:
    truth = np.zeros((60, 60, 60), np.uint8)
    truth[::2, ::2, ::2] = 1
    for by in ("class", "object"):
        found = Foreground.find([((0, 0, 0), truth)], 2, by=by)  # type: ignore[arg-type]
        assert sum(len(one) for one in found.groups[1]) == 1000


def test_voxels_of_a_class_are_as_likely_wherever_they_lie() -> None:
    truth = np.zeros((60, 40, 40), np.uint8)
    truth[:30] = 1
    truth[45, :25, :25] = 1  # a 78th of it, in a cell of its own
    both = [((0, 0, 0), truth[:30]), ((30, 0, 0), truth[30:])]
    (group,) = Foreground.find(both, 2, by="class").groups[1]
    assert 0.003 < (group[:, 0] > 30).mean() < 0.03
    assert 980 <= len(group) <= 1000
