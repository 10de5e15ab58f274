from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest

from unet_batch.inference.references import ArrayRef, PieceRef
from unet_batch.pickling import by_fields
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.labels_set import LabelsSet
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.layout import Layout
from unet_batch.tiling.blocks import BlockLayout
from unet_batch.tiling.box import Box
from unet_batch.tiling.grid import TileGrid


@by_fields
@dataclass(frozen=True, slots=True)
class Lone:
    value: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Longer(Lone):
    pass


GRID = TileGrid.of((40, 50, 60), (32, 32, 32), 0.5)
WRITER = LabelsWriter(
    "/archive",
    "ct-1",
    "liver",
    (40, 50, 60),
    "uint8",
    (LabelClass(0, "background"), LabelClass(1, "liver", (1, 2, 3))),
    "key",
    (1.0,) * 16,
    Layout((40, 50, 60), (40, 50, 60)),
    stage="raw",
)


@pytest.mark.parametrize("module", [pickle, cloudpickle])
@pytest.mark.parametrize(
    "value",
    [
        Lone((1, 2)),
        Longer((3,)),
        Box((0, -1), (4, 5)),
        GRID,
        BlockLayout.whole(GRID).blocks(0)[0],
        LabelsSet("liver", (WRITER, WRITER)),
        PieceRef(Box((0,), (1,)), ArrayRef("a reference", 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_arrives_as_it_was(value: Any, module: Any) -> None:
    arrived = pickle.loads(module.dumps(value))
    assert arrived == value
    assert type(arrived) is type(value)


def test_what_is_shared_travels_once() -> None:
    one, other = pickle.loads(pickle.dumps([WRITER, WRITER]))
    assert one is other
    assert one.layout == WRITER.layout
