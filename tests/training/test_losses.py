from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import DiceCELoss, DiceLoss, FocalLoss, TverskyLoss

from unet_batch.planning.specs.recipe import LossSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.training.losses import SegmentationLoss, Truth, merge_unknown
from unet_batch.training.targets import ClassTable

LABELS = tuple(LabelClass(value, f"class_{value}") for value in range(3))
SOFTMAX, SIGMOID = ClassTable.of(LABELS), ClassTable.of(LABELS, "sigmoid")
TERMS = ["cross_entropy", "dice", "tversky", "focal"]
SHAPE = (4, 6, 5)


def only(**weights: object) -> LossSpec:
    return LossSpec.model_validate({"cross_entropy": 0, "dice": 0} | weights)


def logits(channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2


def indices(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (2, 1, *SHAPE), generator=generator).float()


def one_hot(truth: torch.Tensor) -> torch.Tensor:
    return F.one_hot(truth[:, 0].long(), 3).movedim(-1, 1).float()


def value(spec: LossSpec, table: ClassTable, given: object, truth: Truth) -> float:
    return float(SegmentationLoss(spec, table)(given, truth))  # type: ignore[arg-type]


def test_the_default_is_monais_dice_ce() -> None:
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)
    assert value(LossSpec(), SOFTMAX, logits(), Truth(indices())) == pytest.approx(
        float(theirs(logits(), indices())), abs=1e-6
    )


def test_tversky_is_monais() -> None:
    theirs = TverskyLoss(
        softmax=True, to_onehot_y=True, include_background=False, alpha=0.2, beta=0.8
    )
    spec = only(tversky=1, tversky_beta=0.8)
    assert value(spec, SOFTMAX, logits(), Truth(indices())) == pytest.approx(
        float(theirs(logits(), indices())), abs=1e-6
    )


def test_focal_is_monais() -> None:
    spec = only(focal=1, focal_gamma=1.5)
    theirs = FocalLoss(gamma=1.5, use_softmax=True, reduction="none")(logits(), one_hot(indices()))
    ours = value(spec, SOFTMAX, logits(), Truth(indices()))
    assert ours == pytest.approx(float(theirs.sum(1).mean()), rel=1e-5)
    theirs = FocalLoss(gamma=1.5)(logits(2), one_hot(indices())[:, 1:])
    ours = value(spec, SIGMOID, logits(2), Truth(indices()))
    assert ours == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_slope_where_nothing_is_in_doubt(gamma: float) -> None:
    certain = (100 * (2 * one_hot(indices()) - 1)).requires_grad_()
    SegmentationLoss(only(focal=1, focal_gamma=gamma), SOFTMAX)(
        certain, Truth(indices())
    ).backward()
    assert certain.grad is not None
    assert torch.isfinite(certain.grad).all()


def test_a_sigmoids_cross_entropy_is_binary_and_its_dice_is_of_all_channels() -> None:
    target = one_hot(indices())[:, 1:]
    entropy = F.binary_cross_entropy_with_logits(logits(2), target)
    dice = DiceLoss(sigmoid=True)(logits(2), target)
    ours = value(only(cross_entropy=2, dice=3), SIGMOID, logits(2), Truth(indices()))
    assert ours == pytest.approx(float(2 * entropy + 3 * dice), rel=1e-5)


def test_over_the_batch_an_empty_patch_costs_no_dice() -> None:
    truth = indices()
    truth[0] = 0
    given = torch.cat([logits()[:1] - torch.tensor([0, 9, 9])[:, None, None, None], logits()[1:]])
    each, together = (
        value(only(dice=1, over_batch=over), SOFTMAX, given, Truth(truth)) for over in (False, True)
    )
    theirs = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    assert together == pytest.approx(float(theirs(given, truth)), abs=1e-6)
    assert together < each


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("table", [SOFTMAX, SIGMOID])
def test_a_right_answer_costs_nothing_and_a_wrong_one_does(term: str, table: ClassTable) -> None:
    spec = only(**{term: 1})
    truth = indices()
    right = one_hot(truth)[:, table.first_foreground ^ 1 :] * 40 - 20
    assert value(spec, table, right, Truth(truth)) < 1e-3
    assert value(spec, table, -right, Truth(truth)) > 0.5
    nothing = Truth(torch.zeros_like(truth))
    assert math.isfinite(value(spec, table, right, nothing))


@pytest.mark.parametrize("term", ["cross_entropy", "focal"])
@pytest.mark.parametrize("table", [SOFTMAX, SIGMOID])
def test_weights_of_voxels_and_classes_multiply(term: str, table: ClassTable) -> None:
    given, truth = logits(len(table.classes)), indices()
    spec = only(**{term: 1})
    plain = value(spec, table, given, Truth(truth))
    doubled = Truth(truth, weights=torch.full_like(truth, 2.0))
    assert value(spec, table, given, doubled) == pytest.approx(2 * plain, rel=1e-5)
    weighted = only(**{term: 1, "class_weights": (3, 3, 3)})
    assert value(weighted, table, given, doubled) == pytest.approx(6 * plain, rel=1e-5)


def test_a_class_of_weight_0_does_not_count() -> None:
    spec = only(cross_entropy=1, class_weights=(1, 0, 1))
    first, second = logits(), logits()
    second[:, :, indices()[0, 0] == 1] = 0
    is_one = indices() == 1
    second = torch.where(is_one, torch.zeros(()), first)
    truth = Truth(indices())
    assert value(spec, SOFTMAX, first, truth) == pytest.approx(value(spec, SOFTMAX, second, truth))


KNOWN = torch.tensor([[True, True, False], [True, True, True]])


@pytest.mark.parametrize("term", TERMS)
def test_a_class_that_is_not_annotated_is_neither_rewarded_nor_punished(term: str) -> None:
    truth = indices()
    truth[0][truth[0] == 2] = 0
    loss = SegmentationLoss(only(**{term: 1}), SOFTMAX)
    given = logits().requires_grad_()
    loss(given, Truth(truth, KNOWN)).backward()
    assert given.grad is not None
    # Where the first sample says background, its gradient sees one class of two logits: what
    # is moved from one to the other changes nothing.
    share = given.detach()[0, [0, 2]].softmax(0)
    total = given.grad[0, [0, 2]].sum(0)
    assert torch.allclose(given.grad[0, [0, 2]], share * total, atol=1e-6)
    assert given.grad[1, 2].abs().max() > 1e-5


@pytest.mark.parametrize("term", TERMS)
def test_a_sigmoid_leaves_out_what_nobody_annotated(term: str) -> None:
    loss = SegmentationLoss(only(**{term: 1}), SIGMOID)
    given = logits(2).requires_grad_()
    loss(given, Truth(indices(), KNOWN[:, 1:])).backward()
    assert given.grad is not None
    assert not given.grad[0, 1].any()
    assert given.grad[0, 0].any()
    assert given.grad[1, 1].any()


@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("table", [SOFTMAX, SIGMOID])
def test_known_classes_are_not_diluted_by_unknown_ones(table: ClassTable, over_batch: bool) -> None:
    known = torch.tensor([[True, True, False]] * 2)[:, table.first_foreground ^ 1 :]
    spec = LossSpec(over_batch=over_batch)
    truth = indices().clamp(max=1)
    right = one_hot(truth)[:, table.first_foreground ^ 1 :] * 40 - 20
    assert value(spec, table, right, Truth(truth, known)) < 1e-3
    wrong = -right
    wrong[:, -1] = -20
    assert value(only(dice=1, over_batch=over_batch), table, wrong, Truth(truth, known)) > 0.99


def test_merged_logits_have_the_summed_probability() -> None:
    merged = merge_unknown(logits(), KNOWN).softmax(1)
    plain = logits().softmax(1)
    assert torch.allclose(merged[0, 0], plain[0, 0] + plain[0, 2], atol=1e-6)
    assert not merged[0, 2].any()
    assert torch.allclose(merged[1], plain[1])


def test_deep_logits_weigh_half_of_the_scale_before() -> None:
    coarse = logits(seed=5)[:, :, ::2, ::2, ::2]
    truth = Truth(indices(), weights=torch.rand(2, 1, *SHAPE))
    assert truth.weights is not None
    spec = LossSpec()
    shrunk = Truth(
        F.interpolate(truth.indices, size=coarse.shape[2:], mode="nearest-exact"),
        weights=F.interpolate(truth.weights, size=coarse.shape[2:], mode="nearest-exact"),
    )
    each = value(spec, SOFTMAX, logits(), truth), value(spec, SOFTMAX, coarse, shrunk)
    both = value(spec, SOFTMAX, [logits(), coarse], truth)
    assert both == pytest.approx((each[0] + each[1] / 2) / 1.5, rel=1e-5)
