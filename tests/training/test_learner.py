from __future__ import annotations

import pytest
import torch

from unet_batch.models.networks import build_network
from unet_batch.planning.specs.recipe import TrainingSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.training.batch import Batch
from unet_batch.training.learner import Learner
from unet_batch.training.targets import ClassTable

CPU = torch.device("cpu")
LABELS = (LabelClass(0, "background"), LabelClass(1, "cube"))


def spec(**changes: object) -> TrainingSpec:
    fields = {"steps": 30, "learning_rate": 0.02, "precision": "fp32", "ema_decay": 0.8}
    return TrainingSpec.model_validate(fields | changes)


def learner(
    training: TrainingSpec, table: ClassTable | None = None, *, dropout: float = 0, rank: int = 0
) -> Learner:
    torch.manual_seed(0)
    table = table or ClassTable.of(LABELS)
    network = build_network(
        "residual_unet",
        spatial_dims=3,
        in_channels=1,
        out_channels=len(table.classes),
        arguments={"channels": [4, 8], "num_res_units": 1, "dropout": dropout},
    )
    return Learner(network, training, table, spatial_dims=3, in_channels=1, device=CPU, rank=rank)


def batch(seed: int = 0) -> Batch:
    image = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
    image[:, :, 2:6, 2:6, 2:6] += 4
    truth = torch.zeros(2, 1, 8, 8, 8)
    truth[:, :, 2:6, 2:6, 2:6] = 1
    return Batch(image, truth)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_loss_falls(optimizer: str, activation: str) -> None:
    one = learner(spec(optimizer=optimizer), ClassTable.of(LABELS, activation))  # type: ignore[arg-type]
    losses = [float(one.learn(batch())) for _ in range(15)]
    assert losses[-1] < 0.9 * losses[0]
    assert one.step == 15


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


def test_dropout_of_a_restored_learner_is_that_of_an_undisturbed_one() -> None:
    undisturbed, broken = learner(spec(), dropout=0.4), learner(spec(), dropout=0.4)
    for step in range(3):
        undisturbed.learn(batch(step))
        broken.learn(batch(step))
    resumed = learner(spec(), dropout=0.4)
    resumed.restore(broken.state())
    torch.rand(99)  # whatever else drew from torch's generator since
    rest = range(3, 6)
    assert [undisturbed.learn(batch(k)) for k in rest] == [resumed.learn(batch(k)) for k in rest]


def test_dropout_differs_from_step_to_step_and_rank_to_rank() -> None:
    still = spec(learning_rate=1e-30)
    first, second = learner(still, dropout=0.4), learner(still, dropout=0.4, rank=1)
    losses = [float(one.learn(batch())) for one in (first, first, second, second)]
    assert len(set(losses)) == 4


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


class Deep(torch.nn.Module):
    """Logits of two resolutions while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Conv3d(1, 2, 3, padding=1)
        self.coarse = torch.nn.Conv3d(1, 2, 2, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        fine = self.fine(image)
        return [fine, self.coarse(image)] if self.training else fine


def test_all_resolutions_of_a_deep_network_learn() -> None:
    network = Deep()
    one = Learner(network, spec(), ClassTable.of(LABELS), spatial_dims=3, in_channels=1, device=CPU)
    losses = [float(one.learn(batch())) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert network.coarse.weight.grad is not None
    assert one.averaged(batch().image).shape == (2, 2, 8, 8, 8)


def test_the_critic_is_an_extra_term_of_its_own_weight() -> None:
    first = [float(learner(spec(loss={"adversarial": w})).learn(batch())) for w in (0, 1, 2)]
    assert first[1] > first[0]
    assert first[2] - first[0] == pytest.approx(2 * (first[1] - first[0]), rel=1e-3)
    alone = learner(spec(loss={"cross_entropy": 0, "dice": 0, "adversarial": 1}))
    before = [p.clone() for p in alone.averaged.parameters()]
    alone.learn(batch())
    pairs = zip(before, alone.averaged.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_a_restored_critic_goes_on_as_if_undisturbed() -> None:
    training = spec(loss={"adversarial": 1.0})
    undisturbed, broken = learner(training), learner(training)
    for step in range(3):
        undisturbed.learn(batch(step))
        broken.learn(batch(step))
    resumed = learner(training)
    resumed.restore(broken.state())
    assert [undisturbed.learn(batch(k)) for k in (3, 4)] == [
        resumed.learn(batch(k)) for k in (3, 4)
    ]
