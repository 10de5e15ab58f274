"""The labels of a lone tile are those that summing it would give."""

from __future__ import annotations

import pytest
import torch

from unet_batch.errors import BundleError
from unet_batch.inference.head import Head
from unet_batch.inference.lone_tile import LoneTile
from unet_batch.inference.slab import Slab
from unet_batch.tiling.box import Box

ROI = (6, 7, 9)
TILE = Box.from_shape(ROI)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make_logits(num_classes: int, dtype: torch.dtype, *, is_last: bool) -> torch.Tensor:
    torch.manual_seed(num_classes)
    logits = torch.randn(1, num_classes, *ROI).to(dtype)
    return (logits.to(memory_format=torch.channels_last_3d) if is_last else logits)[0]


def make(kind: type[Slab], extent: Box, num_classes: int) -> Slab:
    head = Head(tuple(range(num_classes)))
    return kind(extent=extent, axis=0, roi=ROI, importance="gaussian", head=head)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [2, 3, 14])
def test_it_labels_as_a_slab_does(
    num_classes: int, dtype: torch.dtype, is_last: bool, device: str
) -> None:
    logits = make_logits(num_classes, dtype, is_last=is_last).to(device)
    for extent in (TILE, Box((0, 0, 0), (4, 7, 5))):  # of a volume smaller than the tile as well
        found = []
        for kind in (Slab, LoneTile):
            slab = make(kind, extent, num_classes)
            out = torch.full((1, *extent.shape), 99, dtype=torch.uint8, device=device)
            slab.add(logits, TILE)
            slab.finish(extent, out)
            assert slab.broken is None or not slab.broken
            found.append(out)
        assert torch.equal(*found)


def test_the_lower_class_wins_where_two_are_equal() -> None:
    out = torch.empty((1, *ROI), dtype=torch.uint8)
    for logits in (torch.zeros(3, *ROI), make_logits(3, torch.bfloat16, is_last=True).zero_()):
        slab = make(LoneTile, TILE, 3)
        slab.add(logits, TILE)
        slab.finish(TILE, out)
        assert not out.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_told(value: float, is_last: bool, device: str) -> None:
    logits = make_logits(3, torch.float32, is_last=is_last)
    logits[1, 2, 3, 4] = value
    slab = make(LoneTile, TILE, 3)
    slab.add(logits.to(device), TILE)
    out = torch.empty((1, *ROI), dtype=torch.uint8, device=device)
    if device == "cpu":
        with pytest.raises(BundleError, match="NaN or infinite"):
            slab.finish(TILE, out)
    else:
        slab.finish(TILE, out)
        assert slab.broken


def test_a_tile_that_was_skipped_is_background() -> None:
    out = torch.full((1, *ROI), 99, dtype=torch.uint8)
    make(LoneTile, TILE, 3).finish(TILE, out)
    assert not out.any()
