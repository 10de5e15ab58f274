from __future__ import annotations

import math

import pytest
import torch

from unet_batch.models.networks import build_network
from unet_batch.planning.specs.train import TrainingSpec
from unet_batch.training.learner import Learner, make_loss, rate_factor
from unet_batch.training.sampling import Batch

CPU = torch.device("cpu")


def spec(**changes: object) -> TrainingSpec:
    fields = {"steps": 30, "learning_rate": 0.02, "precision": "fp32", "ema_decay": 0.8}
    return TrainingSpec.model_validate(fields | changes)


def learner(training: TrainingSpec) -> Learner:
    torch.manual_seed(0)
    network = build_network(
        "residual_unet",
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        arguments={"channels": [4, 8], "num_res_units": 1},
    )
    return Learner(network, training, spatial_dims=3, device=CPU)


def batch(seed: int = 0) -> Batch:
    image = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
    image[:, :, 2:6, 2:6, 2:6] += 4
    truth = torch.zeros(2, 1, 8, 8, 8)
    truth[:, :, 2:6, 2:6, 2:6] = 1
    return Batch(image, truth)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("loss", ["dice_ce", "dice", "cross_entropy"])
def test_the_loss_falls(optimizer: str, loss: str) -> None:
    one = learner(spec(optimizer=optimizer, loss=loss))
    losses = [one.learn(batch()) for _ in range(30)]
    assert losses[-1] < 0.85 * losses[0]
    assert one.step == 30


def test_bf16_learns_too() -> None:
    one = learner(spec(precision="bf16"))
    losses = [one.learn(batch()) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_same_seed_gives_the_same_losses() -> None:
    first, second = learner(spec()), learner(spec())
    assert [first.learn(batch(k)) for k in range(5)] == [second.learn(batch(k)) for k in range(5)]


def test_a_restored_learner_goes_on_as_if_undisturbed() -> None:
    undisturbed, broken = learner(spec()), learner(spec())
    for step in range(10):
        undisturbed.learn(batch(step))
        broken.learn(batch(step))
    resumed = learner(spec(seed=7))
    resumed.restore(broken.state())
    rest = range(10, 20)
    assert [undisturbed.learn(batch(k)) for k in rest] == [resumed.learn(batch(k)) for k in rest]
    assert resumed.step == 20
    for ours, theirs in zip(
        undisturbed.averaged.parameters(), resumed.averaged.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_averaged_weights_lag_behind_and_without_averaging_they_do_not() -> None:
    for decay, is_equal in ((0.9, False), (0.0, True)):
        one = learner(spec(ema_decay=decay))
        for step in range(3):
            one.learn(batch(step))
        state = one.state()
        same = [
            torch.equal(state["network"][key], state["averaged"][key])
            for key in state["network"]
            if state["network"][key].is_floating_point()
        ]
        assert all(same) == is_equal


def test_weight_decay_shrinks_weights() -> None:
    norms = []
    for decay in (0.0, 5.0):
        one = learner(spec(weight_decay=decay))
        for step in range(10):
            one.learn(batch(step))
        norms.append(sum(float(p.square().sum()) for p in one.averaged.parameters()))
    assert norms[1] < norms[0]


def test_clipping_bounds_the_step() -> None:
    moves = []
    for limit in (1e-6, 1e6):
        one = learner(spec(optimizer="sgd", gradient_clip=limit, weight_decay=0, ema_decay=0))
        before = [p.clone() for p in one.averaged.parameters()]
        one.learn(batch())
        after = one.averaged.parameters()
        moves.append(sum(float((a - b).abs().sum()) for a, b in zip(after, before, strict=True)))
    assert moves[0] < 1e-3 * moves[1]


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "poly", "constant"])
def test_each_schedule_warms_up_to_the_highest_rate_and_ends_as_it_should(schedule: str) -> None:
    training = spec(schedule=schedule, warmup_share=0.2)
    one = learner(training)
    rates = []
    for step in range(training.steps):
        rates.append(one.learning_rate)
        one.learn(batch(step))
    assert max(rates) == pytest.approx(0.02, rel=0.02)
    assert rates[0] < 0.3 * max(rates)
    assert rates.index(max(rates)) in range(4, 8)
    assert (rates[-1] > 0.99 * max(rates)) == (schedule == "constant")


def test_poly_is_that_of_nnu_net() -> None:
    training = spec(schedule="poly", warmup_share=0, steps=100)
    assert rate_factor(30, training) == pytest.approx(0.7**0.9)


@pytest.mark.parametrize("loss", ["dice_ce", "dice", "cross_entropy"])
def test_a_right_answer_costs_nothing_and_a_wrong_one_does(loss: str) -> None:
    measure = make_loss(spec(loss=loss))
    truth = batch().truth
    right = torch.cat([1 - truth, truth], dim=1) * 40 - 20
    assert float(measure(right, truth)) < 1e-3
    assert float(measure(-right, truth)) > 0.9
    assert math.isfinite(float(measure(right, torch.zeros_like(truth))))
