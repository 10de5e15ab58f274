from __future__ import annotations

import torch

from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.inference.head import Head
from unet_batch.inference.precision_check import labels_differ

FRAME = Frame(1, 2, (8, 8, 8))


class CloseCall(torch.nn.Module):
    """Class 1 wins where x > 0, by a `margin` that bfloat16 may not see."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 2, 1, bias=False)
        self.convolution.weight.data[:] = torch.tensor([1.0, 1.0 + margin]).view(2, 1, 1, 1, 1)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.convolution(tiles)


def share_that_differs(margin: float, head: Head) -> float:
    torch.manual_seed(0)
    rough, exact = (
        TorchEngine(CloseCall(margin), FRAME, precision=one) for one in ("bf16", "fp32")
    )
    return labels_differ(rough, exact, head, torch.randn(3, 1, 8, 8, 8))


def test_a_margin_below_bfloat16s_precision_changes_the_labels_it_decides() -> None:
    assert 0.4 < share_that_differs(1e-4, Head((0, 1))) < 0.6  # where x > 0


def test_a_clear_margin_changes_none() -> None:
    assert share_that_differs(0.5, Head((0, 1))) == 0


def test_overlapping_classes_are_compared_class_by_class() -> None:
    head = Head((1, 2), "sigmoid", threshold=0.4, with_probabilities=True)
    assert share_that_differs(0.5, head) < 0.01
