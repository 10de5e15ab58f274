"""Dice of a network on whole held-back Volumes while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray

from unet_batch.evaluation.dice import count_overlap
from unet_batch.tiling.box import Box
from unet_batch.training.volumes import TrainingVolume


def predict_logits(
    network: torch.nn.Module,
    image_czyx: torch.Tensor,
    *,
    roi: Sequence[int],
    autocast: AbstractContextManager[None],
    overlap: float = 0.5,
) -> torch.Tensor:
    """Logits (classes, z, y, x) of a normalised image, by a sliding window of `roi`.

    A 2-D network (two numbers in `roi`) sees every z slice.
    """
    inferer = SlidingWindowInferer(roi, 4, overlap=overlap, mode="gaussian")
    is_planar = len(roi) == 2
    inputs = image_czyx.transpose(0, 1) if is_planar else image_czyx[None]
    with torch.inference_mode(), autocast:
        logits = torch.as_tensor(inferer(inputs, network))
    return logits.transpose(0, 1) if is_planar else logits[0]


def score_volumes(
    network: torch.nn.Module,
    volumes: Sequence[TrainingVolume],
    *,
    roi: Sequence[int],
    num_classes: int,
    device: torch.device,
    autocast: AbstractContextManager[None],
) -> dict[str, list[float]]:
    """Dice of each class (without the background) by Volume id, on each scan's own grid."""
    scores = {}
    foreground = range(1, num_classes)
    for volume in volumes:
        image, _ = volume.read(Box.from_shape(volume.shape_zyx))
        logits = predict_logits(network, image.to(device), roi=roi, autocast=autocast)
        predicted, truth = volume.classify(logits), volume.read_truth()
        overlap = count_overlap(_as_mask(predicted), _as_mask(truth), foreground)
        scores[volume.id] = overlap.dice.tolist()
    return scores


def _as_mask(classes_zyx: torch.Tensor) -> NDArray[np.uint16]:
    return classes_zyx.cpu().numpy().astype(np.uint16)


def mean_dice(scores: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """Mean over all classes, and the mean of each class over the Volumes that have it.

    NaN where no Volume has a class.
    """
    by_class = []
    for values in np.asarray(scores, dtype=np.float64).T:
        known = values[~np.isnan(values)]
        by_class.append(float(known.mean()) if known.size else float("nan"))
    known_classes = [one for one in by_class if not np.isnan(one)]
    mean = sum(known_classes) / len(known_classes) if known_classes else float("nan")
    return mean, by_class
