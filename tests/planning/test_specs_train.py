from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unet_batch.errors import SpecError
from unet_batch.planning.specs.train import TrainSpec

READY = Path(__file__).parents[2] / "jobs" / "train.yaml"


def leaves(content: dict[str, object], prefix: str = "") -> set[str]:
    return {
        name
        for key, value in content.items()
        for name in (
            leaves(value, f"{prefix}{key}.")
            if isinstance(value, dict) and key != "arguments"
            else {f"{prefix}{key}"}
        )
    }


def test_the_ready_spec_names_every_field() -> None:
    default = TrainSpec(archive="archive", truth="reference", out="models/organ")
    assert leaves(yaml.safe_load(READY.read_text())) == leaves(default.model_dump())
    assert TrainSpec.load(READY) != default  # a recipe for small crops of 1 mm


def test_every_field_is_reached_by_an_override() -> None:
    spec = TrainSpec.load(READY, overrides=["training.steps=7", "resources.cache=1MiB"])
    assert (spec.training.steps, spec.resources.cache) == (7, 2**20)


def test_a_roi_of_the_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(SpecError, match="roi"):
        TrainSpec.load(READY, overrides=["network.spatial_dims=2", "roi=[64, 64, 64]"])


def test_auto_is_64_voxels_a_side_and_4_patches_for_a_named_network() -> None:
    spec = TrainSpec.load(READY, overrides=["network.spatial_dims=2", "roi=auto"])
    assert (spec.roi, spec.tile) == ("auto", (64, 64))
    assert (spec.training.batch_size, spec.training.num_patches) == ("auto", 4)


def test_auto_takes_no_arguments() -> None:
    with pytest.raises(SpecError, match="derives the arguments itself"):
        TrainSpec.load(READY, overrides=["network.name=auto"])


def test_a_name_alone_is_a_network() -> None:
    network = TrainSpec.load(READY, overrides=["network=auto"]).network
    assert (network.name, network.arguments, network.memory_budget) == ("auto", {}, 8 * 2**30)


@pytest.mark.parametrize(
    "override",
    ["intensity.mode=window", "intensity.mode=percentile", "intensity.low=3", "training.steps=0"],
)
def test_a_contradiction_is_refused(override: str) -> None:
    with pytest.raises(SpecError, match="not valid"):
        TrainSpec.load(READY, overrides=[override])
