"""Seams are added and read out piece by piece, to what they are as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unet_batch.inference import head as heads
from unet_batch.inference.head import NOT_FINITE, Head
from unet_batch.inference.stitching import stitch

SHAPE = (5, 7, 9)
HEADS = {
    "argmax": Head((0, 1, 2)),
    "other label values": Head((0, 7, 300)),
    "probabilities": Head((0, 1, 2), with_probabilities=True),
    "sigmoid": Head((1, 2), "sigmoid", threshold=0.3),
    "ensemble": Head((0, 1), num_members=2),
}


def sums_of(head: Head, number: int) -> list[np.ndarray]:
    """What that many Sweeps hand out; last of each the weights, where the Head needs them."""
    random = np.random.default_rng(0)
    parts = [random.standard_normal((head.num_sums, *SHAPE), np.float32) for _ in range(number)]
    for part in parts:
        if head.needs_weights:
            part[-1] = random.random(SHAPE, np.float32)
        part.flags.writeable = False  # as they come from Ray's object store
    return parts


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("most_sums", [1, 100, 2**20])
def test_any_pieces_give_the_planes_of_the_whole(
    head: Head, number: int, most_sums: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = sums_of(head, number)
    total = sums[0].copy()
    for more in sums[1:]:
        total += more
    whole = head.label_values(head.planes(torch.from_numpy(total)).numpy())
    monkeypatch.setattr(heads, "MAX_SUMS_READ", most_sums)
    done, planes = stitch._function(head, *sums)
    np.testing.assert_array_equal(planes, whole)
    assert planes.dtype == head.dtype
    assert (done.num_bytes, done.failures) == (total.nbytes, {})


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_named(broken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MAX_SUMS_READ", 50)
    first, second = sums_of(HEADS["argmax"], 2)
    first = first.copy()
    first[:, 4, 6, 8] = broken
    done, planes = stitch._function(HEADS["argmax"], first, second)
    assert (done.failures, planes) == ({"": NOT_FINITE}, None)
