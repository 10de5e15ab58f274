"""IntensitySpec: how voxel values become network input, in training as in inference."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from unet_batch.planning.specs.base import SpecModel

IntensityMode = Literal["zscore", "zscore_foreground", "percentile", "window"]


class ChannelIntensity(SpecModel):
    """The rule of one channel.

    ===================== ==============================================================
    mode                  network input
    ===================== ==============================================================
    zscore                (x - mean) / std over the whole Volume
    zscore_foreground     (x - mean) / std over the voxels above the Volume's mean
    percentile            the percentages `low` and `high` become 0 and 1, clipped there
    window                the intensities `low` and `high` become 0 and 1, clipped there
    ===================== ==============================================================

    With a z-score, `low` and `high` are percentages to clip at beforehand, or None.
    """

    mode: IntensityMode = "zscore"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("give both `low` and `high`, or neither")
        if self.low is None or self.high is None:
            if self.mode in {"percentile", "window"}:
                raise ValueError(f"mode {self.mode!r} needs `low` and `high`")
            return self
        if not self.low < self.high:
            raise ValueError(f"`low` {self.low} must lie below `high` {self.high}")
        if self.mode != "window" and not (self.low >= 0 and self.high <= 100):
            raise ValueError(f"percentages lie in 0 to 100, got {self.low} and {self.high}")
        return self


class IntensitySpec(ChannelIntensity):
    """One rule for every channel, or, where `channels` is given, one for each in order."""

    channels: tuple[ChannelIntensity, ...] = Field((), description="empty: all channels alike")

    def rules(self, num_channels: int) -> tuple[ChannelIntensity, ...]:
        """The rule of each channel. Raises ValueError where their number differs."""
        if not self.channels:
            return (self,) * num_channels
        if len(self.channels) != num_channels:
            raise ValueError(
                f"intensity.channels has {len(self.channels)} rules, the scans have"
                f" {num_channels} channels"
            )
        return self.channels
