"""VolumeInfo survives JSON; what is not a VolumeInfo is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from unet_batch.errors import StoreError
from unet_batch.planning.volume_info import ChannelStatistics, LabelClass, VolumeInfo
from unet_batch.storage.record import (
    classes_from_json,
    classes_to_json,
    info_from_json,
    info_to_json,
)

INFO = VolumeInfo(
    id="mr-1",
    shape_czyx=(1, 3, 4, 5),
    dtype="int16",
    spacing_mm=(3.0, 0.5, 0.5),
    affine=tuple(float(n) for n in range(16)),
    chunk_zyx=(3, 4, 5),
    shard_zyx=(3, 4, 5),
    content_hash="abc",
    channels=("T1",),
    statistics=(ChannelStatistics(-1.5, 9, 2, 1, {0.5: -1, 25.0: 1, 99.5: 8}, 0.3, 5, 2, 0),),
    modality="MR",
    warnings=("anisotropic",),
    metadata={"echo_ms": 3.5, "nested": {"list": [1, None]}},
)


def test_every_field_but_the_labels_survives() -> None:
    text = json.dumps(info_to_json(replace(INFO, labels=("liver",))), sort_keys=True)
    assert info_from_json(json.loads(text), labels=["truth"], where="x") == replace(
        INFO, labels=("truth",)
    )
    assert list(info_from_json(json.loads(text), where="x").statistics[0].percentiles) == [
        0.5,
        25.0,
        99.5,
    ]


@pytest.mark.parametrize(
    "damage", [{"shape_czyx": [1, 2]}, {"affine": [1.0]}, {"statistics": [{}]}, {"metadata": 3}]
)
def test_a_damaged_description_is_named(damage: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="here: not a complete description"):
        info_from_json({**info_to_json(INFO), **damage}, where="here")


def test_a_missing_field_is_named() -> None:
    content = info_to_json(INFO)
    del content["dtype"]
    with pytest.raises(StoreError, match="dtype"):
        info_from_json(content, where="here")


def test_classes_survive() -> None:
    classes = (LabelClass(0, "background", (0, 0, 0)), LabelClass(2, "spleen", (1, 2, 3)))
    assert classes_from_json(json.loads(json.dumps(classes_to_json(classes))), "x") == classes
    with pytest.raises(StoreError, match="here: its classes"):
        classes_from_json([{"value": 1}], "here")
