"""Normalizer: raw voxels to network input, one formula for training and inference.

Everything a rule needs is known at ingest (`ChannelStatistics`), so normalising is an
affine map with a clip, applied to tiles on the device and never to a whole Volume:

    y = clip(x, low, high) * scale + shift,   and 0 where x is NaN or infinite
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from unet_batch.errors import BundleError
from unet_batch.planning.specs.intensity import ChannelIntensity, IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """`y = clip(x, low, high) * scale + shift` of one channel; infinite bounds clip nothing."""

    scale: float
    shift: float
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True)
class Normalizer:
    """The maps of one Volume's channels.

    `is_finite` says that ingest met no NaN and no inf, which spares a pass over the voxels.
    """

    channels: tuple[ChannelMap, ...]
    is_finite: bool = False

    @classmethod
    def fit(cls, spec: IntensitySpec, statistics: Sequence[ChannelStatistics]) -> Self:
        """The Normalizer of a Volume with these `statistics`, one a channel.

        Raises BundleError where the rules do not fit the channels, or name a percentage
        that ingest did not store.
        """
        try:
            rules = spec.rules(len(statistics))
        except ValueError as error:
            raise BundleError(f"{error}; choose scans of the same channels") from error
        maps = tuple(map(_channel_map, rules, statistics))
        return cls(maps, is_finite=all(one.num_nonfinite == 0 for one in statistics))

    def apply(self, voxels_czyx: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Network input, float32 and contiguous, of raw voxels of any real dtype.

        `voxels_czyx` has the channels first and any number of spatial axes; it is not changed.
        `out`, float32 of the same shape, is written and returned instead of new memory.
        """
        if len(voxels_czyx) != len(self.channels):
            raise BundleError(
                f"expected {len(self.channels)} channels, got voxels of shape"
                f" {tuple(voxels_czyx.shape)} (channels first)"
            )
        shape, device = voxels_czyx.shape, voxels_czyx.device
        values = torch.empty(shape, dtype=torch.float32, device=device) if out is None else out
        for one, raw, channel in zip(values, voxels_czyx, self.channels, strict=True):
            one.copy_(raw)
            if math.isfinite(channel.low) or math.isfinite(channel.high):
                one.clamp_(channel.low, channel.high)
            one.mul_(channel.scale).add_(channel.shift)
        if voxels_czyx.is_floating_point() and not self.is_finite:
            values.masked_fill_(~torch.isfinite(voxels_czyx), 0.0)
        return values


def _channel_map(rule: ChannelIntensity, statistics: ChannelStatistics) -> ChannelMap:
    low, high = -math.inf, math.inf
    if rule.low is not None and rule.high is not None:
        low, high = rule.low, rule.high
        if rule.mode != "window":
            low, high = _percentile(statistics, low), _percentile(statistics, high)
    if rule.mode in {"percentile", "window"}:
        offset, width = low, high - low
    elif rule.mode == "zscore":
        offset, width = statistics.mean, statistics.std
    else:
        offset, width = statistics.foreground_mean, statistics.foreground_std
    # A constant channel carries no information: it becomes 0, not a division by 0.
    scale = 1.0 / width if math.isfinite(width) and width > 0 else 0.0
    return ChannelMap(scale, -offset * scale if scale else 0.0, low, high)


def _percentile(statistics: ChannelStatistics, percentage: float) -> float:
    try:
        return statistics.percentiles[percentage]
    except KeyError as error:
        known = ", ".join(f"{key:g}" for key in sorted(statistics.percentiles))
        raise BundleError(
            f"intensity asks for the percentile {percentage:g}; ingest stored {known}"
        ) from error
