from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from unet_batch.training.boundary import boundary_weights


def circles() -> np.ndarray:
    y, x = np.mgrid[:60, :80]
    truth = np.zeros((60, 80), np.float32)
    for centre_y, centre_x, radius in ((20, 20, 10), (20, 43, 11), (47, 60, 8), (25, 62, 5)):
        truth[(y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2] = 1
    return truth


def test_weights_are_those_of_the_papers_formula() -> None:
    truth = circles()
    numbers, count = ndimage.label(truth)
    distances = np.sort(
        [ndimage.distance_transform_edt(numbers != k + 1) for k in range(count)], axis=0
    )
    wanted = 1 + 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 5**2))
    weights = boundary_weights(truth, w0=10, sigma=5)
    outside = truth == 0
    assert np.abs(weights - wanted)[outside].max() < 10 * np.exp(-8) + 1e-5
    assert (weights[~outside] == 1).all()
    assert weights.max() > 8


def test_touching_objects_of_two_classes_are_two() -> None:
    truth = np.zeros((9, 9, 9), np.uint8)
    truth[2:4, 2:4, 2:4], truth[5:7, 2:4, 2:4] = 1, 2
    assert boundary_weights(truth, w0=10, sigma=5)[4, 2, 2] == pytest.approx(
        1 + 10 * np.exp(-(2**2) / 50)
    )


@pytest.mark.parametrize("num_objects", [0, 1])
def test_without_two_objects_all_voxels_weigh_the_same(num_objects: int) -> None:
    truth = np.zeros((12, 12))
    truth[4:6, 4:6] = num_objects
    assert (boundary_weights(truth, w0=10, sigma=2) == 1).all()
