from __future__ import annotations

import numpy as np
import pytest
import torch

from unet_batch.errors import BundleError
from unet_batch.models.intensity import Normalizer
from unet_batch.planning.specs.intensity import ChannelIntensity, IntensitySpec
from unet_batch.planning.volume_info import ChannelStatistics
from unet_batch.storage.statistics import compute_statistics

DTYPES = ["uint8", "int16", "uint16", "int32", "float32", "float64"]


def volume(dtype: str, channels: int = 1) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 250, (channels, 6, 7, 8))
    return values.astype(dtype)


def fit(spec: IntensitySpec, voxels: np.ndarray) -> Normalizer:
    return Normalizer.fit(spec, statistics(voxels))


def statistics(voxels: np.ndarray) -> tuple[ChannelStatistics, ...]:
    return compute_statistics(voxels)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zscore_gives_mean_0_and_deviation_1_for_every_dtype(dtype: str) -> None:
    voxels = volume(dtype, channels=2)
    result = fit(IntensitySpec(), voxels).apply(torch.from_numpy(voxels))
    assert result.dtype == torch.float32
    for channel in result:
        assert abs(float(channel.mean())) < 1e-3
        assert abs(float(channel.std(correction=0)) - 1) < 1e-3


def test_a_window_maps_its_bounds_to_0_and_1_and_clips() -> None:
    voxels = torch.tensor([-2000.0, -100.0, 50.0, 200.0, 3000.0])[None]
    spec = IntensitySpec(mode="window", low=-100, high=200)
    result = fit(spec, volume("int16")).apply(voxels)
    assert result[0].tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_percentiles_map_to_0_and_1() -> None:
    voxels = volume("float32")
    known = statistics(voxels)
    result = Normalizer.fit(IntensitySpec(mode="percentile", low=5, high=95), known).apply(
        torch.tensor([[known[0].percentiles[5], known[0].percentiles[95], 1e6]])
    )
    assert result[0].tolist() == pytest.approx([0, 1, 1], abs=1e-5)


def test_foreground_zscore_centres_on_the_foreground() -> None:
    voxels = volume("float32")
    voxels[:, :3] = 0
    known = statistics(voxels)[0]
    result = fit(IntensitySpec(mode="zscore_foreground"), voxels).apply(
        torch.tensor([[known.foreground_mean, known.foreground_mean + known.foreground_std]])
    )
    assert result[0].tolist() == pytest.approx([0, 1], abs=1e-5)


def test_each_channel_may_have_its_own_rule() -> None:
    rules = (ChannelIntensity(mode="window", low=0, high=10), ChannelIntensity())
    voxels = volume("float32", channels=2)
    result = fit(IntensitySpec(channels=rules), voxels).apply(torch.from_numpy(voxels))
    assert float(result[0].max()) == 1
    assert abs(float(result[1].mean())) < 1e-3


def test_voxels_that_are_not_finite_become_0() -> None:
    voxels = volume("float32")
    voxels[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    spec = IntensitySpec(mode="window", low=100, high=200)
    result = fit(spec, voxels).apply(torch.from_numpy(voxels))
    assert result[0, 0, 0, :3].tolist() == [0, 0, 0]
    assert torch.isfinite(result).all()


def test_a_constant_channel_becomes_0() -> None:
    voxels = np.full((1, 4, 4, 4), 7, np.int16)
    assert not fit(IntensitySpec(), voxels).apply(torch.from_numpy(voxels)).any()


def test_the_voxels_given_are_left_alone() -> None:
    voxels = torch.from_numpy(volume("float32"))
    before = voxels.clone()
    fit(IntensitySpec(), voxels.numpy()).apply(voxels)
    assert torch.equal(voxels, before)


def test_a_percentile_that_was_not_stored_is_refused() -> None:
    with pytest.raises(BundleError, match="percentile 42"):
        fit(IntensitySpec(mode="percentile", low=5, high=42), volume("uint8"))


def test_rules_for_other_channels_are_refused() -> None:
    spec = IntensitySpec(channels=(ChannelIntensity(), ChannelIntensity()))
    with pytest.raises(BundleError, match="2 rules"):
        fit(spec, volume("uint8"))
    with pytest.raises(BundleError, match="expected 1 channels"):
        fit(IntensitySpec(), volume("uint8")).apply(torch.zeros(2, 3, 3, 3))
