from __future__ import annotations

import torch

from unet_batch.planning.volume_info import LabelClass
from unet_batch.training.targets import ClassTable

LABELS = (LabelClass(0, "background"), LabelClass(2, "oedema"), LabelClass(5, "core", (1, 2, 3)))
TRUTH = torch.tensor([[[0, 1, 2, 2]]])


def test_a_softmax_has_a_channel_for_each_value() -> None:
    table = ClassTable.of(LABELS)
    assert table.classes == LABELS
    assert [one.name for one in table.foreground] == ["oedema", "core"]
    assert table.targets(TRUTH).tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]]


def test_a_sigmoid_has_none_for_the_background() -> None:
    table = ClassTable.of(LABELS, "sigmoid")
    assert table.classes == table.foreground == LABELS[1:]
    assert table.targets(TRUTH).tolist() == [[[0, 1, 0, 0], [0, 0, 1, 1]]]


def test_regions_are_unions_that_may_overlap() -> None:
    table = ClassTable.of(LABELS, "sigmoid", {"whole": (2, 5), "core": (5,)})
    assert [(one.value, one.name) for one in table.classes] == [(1, "whole"), (2, "core")]
    assert table.classes[1].color == (1, 2, 3)
    assert table.targets(TRUTH).tolist() == [[[0, 1, 1, 1], [0, 0, 1, 1]]]
    assert table.member_values(0) == (2, 5)


def test_a_class_is_known_where_all_its_values_are_annotated() -> None:
    assert ClassTable.of(LABELS).known([2]) == (True, True, False)
    regions = ClassTable.of(LABELS, "sigmoid", {"whole": (2, 5), "oedema": (2,)})
    assert regions.known([0, 2]) == (False, True)
