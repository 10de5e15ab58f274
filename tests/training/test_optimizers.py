from __future__ import annotations

import pytest
import torch

from unet_batch.planning.specs.recipe import TrainingSpec
from unet_batch.training.optimizers import make_optimizer, make_schedule, rate_factor


def spec(**changes: object) -> TrainingSpec:
    return TrainingSpec.model_validate({"steps": 30, "learning_rate": 0.02} | changes)


def optimizer(training: TrainingSpec) -> torch.optim.Optimizer:
    return make_optimizer(torch.nn.Linear(1, 1), training)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "poly", "constant"])
def test_each_schedule_warms_up_to_the_highest_rate_and_ends_as_it_should(schedule: str) -> None:
    training = spec(schedule=schedule, warmup_share=0.2)
    one = optimizer(training)
    plan, rates = make_schedule(one, training), []
    for _ in range(training.steps):
        rates.append(one.param_groups[0]["lr"])
        one.step()
        plan.step()
    assert max(rates) == pytest.approx(0.02, rel=0.02)
    assert rates[0] < 0.3 * max(rates)
    assert rates.index(max(rates)) in range(4, 8)
    assert (rates[-1] > 0.99 * max(rates)) == (schedule == "constant")


def test_poly_is_that_of_nnu_net() -> None:
    training = spec(schedule="poly", warmup_share=0, steps=100)
    assert rate_factor(30, training) == pytest.approx(0.7**0.9)


def test_momentum_is_sgds_and_one_cycle_lowers_it_while_the_rate_is_high() -> None:
    training = spec(optimizer="sgd", momentum=0.8, schedule="constant")
    assert optimizer(training).param_groups[0]["momentum"] == 0.8
    assert optimizer(training).param_groups[0]["nesterov"]
    cycled = spec(optimizer="sgd", momentum=0.8, schedule="one_cycle", warmup_share=0.5)
    one = optimizer(cycled)
    plan, momenta = make_schedule(one, cycled), []
    for _ in range(cycled.steps):
        momenta.append(one.param_groups[0]["momentum"])
        one.step()
        plan.step()
    assert max(momenta) == pytest.approx(0.8)
    assert min(momenta) == pytest.approx(0.7, abs=0.01)


def test_without_momentum_sgd_is_plain() -> None:
    group = optimizer(spec(optimizer="sgd", momentum=0, schedule="poly")).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0, False)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_weight_decay_shrinks_weights_without_a_gradient(name: str) -> None:
    network = torch.nn.Linear(4, 4)
    one = make_optimizer(network, spec(optimizer=name, weight_decay=1.0))
    before = float(network.weight.detach().abs().sum())
    network.weight.grad = torch.zeros_like(network.weight)
    one.step()
    assert float(network.weight.detach().abs().sum()) < before


def test_biases_and_norms_do_not_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
    one = make_optimizer(network, spec(weight_decay=1.0))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    one.step()
    is_kept = [torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert is_kept == [False, True, True, True]
