from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import pytest

from unet_batch.errors import SpecError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.planning.volume_info import Json, LabelClass
from unet_batch.storage.archive import Archive
from unet_batch.training.task import TrainTask, plan_training


def plan(archive: Archive, **changes: object) -> TrainTask:
    fields: dict[str, object] = {"archive": archive.url, "truth": "truth", "out": "unused"}
    return plan_training(archive, TrainSpec.model_validate(fields | changes))


def add(
    archive: Archive,
    name: str,
    *,
    channels: int = 1,
    label: str = "cube",
    metadata: Mapping[str, Json] = MappingProxyType({}),
) -> None:
    voxels = np.zeros((channels, 8, 8, 8), np.int16)
    scan = Scan(name, voxels, np.eye(4), ("a", "b")[:channels], metadata=metadata)
    classes = (LabelClass(0, "background"), LabelClass(4, label))
    mask = Mask(np.zeros((8, 8, 8), np.uint8), np.eye(4), classes)
    archive.write_scan(scan, source={})
    archive[name].write_labels("truth", mask, provenance={})


def test_the_archive_decides_classes_channels_spacing_and_hashes(
    cubes: Callable[..., Archive],
) -> None:
    archive = cubes(5, channels=2)
    task = plan(archive)
    assert [(one.value, one.name) for one in task.classes] == [(0, "background"), (4, "cube")]
    assert task.channels == ("c0", "c1")
    assert task.spacing_mm == (1, 1, 1)
    assert task.data_hashes == {one: archive.info(one).content_hash for one in task.split.train}
    (held_back,) = task.split.held_back
    assert task.held_back_hashes == {held_back: archive.info(held_back).content_hash}
    assert task.truth_keys == {one: archive[one].labels["truth"].key for one in archive}


def test_volumes_without_the_truth_are_left_out(cubes: Callable[..., Archive]) -> None:
    archive = cubes(2)
    voxels = np.zeros((1, 8, 8, 8), np.int16)
    archive.write_scan(Scan("bare", voxels, np.eye(4), ("c0",)), source={})
    split = plan(archive).split
    assert "bare" not in (*split.train, *split.held_back)


def test_a_truth_that_nobody_has_is_refused(cubes: Callable[..., Archive]) -> None:
    with pytest.raises(SpecError, match="none of the 2 Volumes"):
        plan(cubes(2), truth="absent")


def test_contradicting_channels_are_named(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1)
    add(archive, "two_channels", channels=2)
    with pytest.raises(SpecError, match="two_channels"):
        plan(archive)


def test_contradicting_class_names_are_named(cubes: Callable[..., Archive]) -> None:
    archive = cubes(1)
    add(archive, "other_name", label="sphere")
    with pytest.raises(SpecError, match=r"'sphere'.*'cube'|'cube'.*'sphere'"):
        plan(archive)


def test_a_roi_that_the_network_cannot_halve_says_which_can(
    cubes: Callable[..., Archive],
) -> None:
    with pytest.raises(SpecError, match=r"\[48, 48, 64\]"):
        plan(cubes(1), roi=(40, 48, 50))


SAGITTAL = np.array([[3.0, 0, 0, 0], [0, 0, -1, 0], [0, 2, 0, 0], [0, 0, 0, 1]])  # z R, y S, x P


def test_a_median_spacing_is_that_of_the_oriented_volumes(cubes: Callable[..., Archive]) -> None:
    archive = cubes(4, affine=SAGITTAL)
    task = plan(archive, grid={"spacing_mm": "median", "orientation": "LPS"})
    assert task.grid == GridSpec(spacing_mm=(2, 1, 3), orientation="LPS")
    assert task.spacing_mm == (2, 1, 3)
    planar = {"name": "residual_unet", "spatial_dims": 2}
    flat = plan(archive, grid={"spacing_mm": "median"}, network=planar, roi=(64, 64))
    assert flat.grid == GridSpec(spacing_mm=(None, 2, 1))


def test_the_spacing_of_training_is_that_of_the_grid(cubes: Callable[..., Archive]) -> None:
    task = plan(cubes(4, affine=SAGITTAL), grid={"spacing_mm": (1.5, None, 0.75)})
    assert task.grid == GridSpec(spacing_mm=(1.5, None, 0.75))
    assert task.spacing_mm == pytest.approx((1.5, 2, 0.75))


def test_a_derived_network_says_why_and_fits(cubes: Callable[..., Archive]) -> None:
    task = plan(cubes(4, shape=(12, 20, 16)), network={"name": "auto", "memory_budget": "1GiB"})
    assert task.spec.network.name == "dynunet"
    assert task.spec.roi == (12, 20, 16)
    assert "3 Volumes, their median 12x20x16 voxels" in task.network_reasons[0]
    assert task.network().divisor == (2, 4, 4)


def test_a_network_of_ones_own_needs_trust(cubes: Callable[..., Archive]) -> None:
    archive, own = cubes(2), {"name": "monai.networks.nets:BasicUNet"}
    with pytest.raises(SpecError, match="BasicUNet' is code"):
        plan(archive, network=own)
    task = plan(archive, network=own, trust_network=True)
    assert task.network().build().__class__.__name__ == "BasicUNet"


def test_a_batch_that_no_norm_bears_is_refused_before_workers_start(
    cubes: Callable[..., Archive],
) -> None:
    with pytest.raises(SpecError, match="does not pass"):
        plan(cubes(2), network={"name": "dynunet"}, roi=(16, 16, 16))


def test_the_activation_and_regions_decide_the_classes(cubes: Callable[..., Archive]) -> None:
    archive = cubes(2)
    sigmoid = plan(archive, activation="sigmoid")
    assert [one.name for one in sigmoid.classes] == ["cube"]
    regions = plan(archive, activation="sigmoid", regions={"any": (4,), "same": (4,)})
    assert [(one.value, one.name) for one in regions.classes] == [(1, "any"), (2, "same")]
    assert regions.network().arguments["out_channels"] == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation": "sigmoid", "regions": {"odd": (4, 9)}}, r"regions.odd .*\[9\].*\[0, 4\]"),
        ({"training": {"loss": {"class_weights": (1, 2, 3)}}}, "3 numbers.*2 values"),
        (
            {
                "training": {"early_stopping": 2, "validate_every": 5},
                "split": {"holdout_share": 0},
            },
            "held back, and there are none",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_the_truth_is_refused(
    cubes: Callable[..., Archive], changes: dict[str, object], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        plan(cubes(3), **changes)


def test_scans_of_a_patient_are_on_one_side(cubes: Callable[..., Archive]) -> None:
    archive = cubes(0)
    for number in range(12):
        add(archive, f"scan_{number}", metadata={"patient": f"patient {number % 4}"})
    for seed in range(4):
        split = plan(archive, split={"seed": seed}).split
        train, held_back = (
            {archive.info(one).patient for one in side} for side in (split.train, split.held_back)
        )
        assert train | held_back == {f"patient {number}" for number in range(4)}
        assert not train & held_back
    apart = plan(archive, split={"holdout_share": 0.5, "by_patient": False}).split
    assert len(apart.held_back) == 6
