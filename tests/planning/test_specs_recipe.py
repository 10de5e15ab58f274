from __future__ import annotations

import pytest
from pydantic import ValidationError

from unet_batch.errors import SpecError
from unet_batch.planning.specs.recipe import LossSpec, TrainingSpec, TrainResourceSpec
from unet_batch.planning.specs.train import TrainSpec


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cross_entropy": 0, "dice": 0}, "every term has the weight 0"),
        ({"cross_entropy": 0, "boundary": 10}, "which are both 0"),
        ({"cross_entropy": 0, "class_weights": [1, 2]}, "which are both 0"),
        ({"dice": -1}, "greater than or equal to 0"),
        ({"tversky_beta": 1.5}, "less than or equal to 1"),
        ({"boundary_sigma": 0}, "greater than 0"),
    ],
)
def test_a_loss_that_says_nothing_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LossSpec.model_validate(fields)


def test_the_critic_alone_is_a_loss() -> None:
    assert LossSpec(cross_entropy=0, dice=0, adversarial=1).adversarial == 1


def test_early_stopping_needs_validations_to_count() -> None:
    with pytest.raises(ValidationError, match="set validate_every"):
        TrainingSpec(early_stopping=3)
    assert TrainingSpec(early_stopping=3, validate_every=100).early_stopping == 3


def test_workers_are_a_number_or_a_range() -> None:
    fixed = TrainResourceSpec.model_validate({"workers": 2})
    assert (fixed.fewest_workers, fixed.most_workers) == (2, 2)
    elastic = TrainResourceSpec.model_validate({"workers": {"max": 4}})
    assert (elastic.fewest_workers, elastic.most_workers) == (1, 4)
    for wrong in (0, {"min": 3, "max": 2}, {"min": 0, "max": 2}):
        with pytest.raises(ValidationError, match="workers"):
            TrainResourceSpec.model_validate({"workers": wrong})


def test_two_workers_do_not_share_a_gpu() -> None:
    assert TrainResourceSpec(gpus_per_worker=0.5).gpus_per_worker == 0.5
    assert TrainResourceSpec(gpus_per_worker=1, workers=2).gpus_per_worker == 1
    with pytest.raises(ValidationError, match=r"NCCL.* refuses two of them on one GPU"):
        TrainResourceSpec(gpus_per_worker=0.5, workers=2)


def train_spec(**fields: object) -> TrainSpec:
    needed = {"archive": "archive", "truth": "truth", "out": "out"}
    return TrainSpec.load(arguments=needed | fields)


def test_regions_need_a_sigmoid_and_values() -> None:
    regions = {"whole": (1, 2), "core": (2,)}
    assert train_spec(activation="sigmoid", regions=regions).regions == regions
    with pytest.raises(SpecError, match="activation: sigmoid"):
        train_spec(regions=regions)
    with pytest.raises(SpecError, match="at least one value"):
        train_spec(activation="sigmoid", regions={"nothing": ()})


def test_losses_and_workers_are_reached_by_an_override() -> None:
    needed = {"archive": "archive", "truth": "truth", "out": "out"}
    overrides = ["training.loss.focal=0.5", "resources.workers.max=3"]
    spec = TrainSpec.load(arguments=needed, overrides=overrides)
    assert (spec.training.loss.focal, spec.training.loss.dice) == (0.5, 1)
    assert spec.resources.most_workers == 3
