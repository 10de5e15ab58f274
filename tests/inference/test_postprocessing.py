"""Labels wait in a stage, are mended, and end in the same bytes wherever the task is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import ndimage

from unet_batch.errors import NotFoundError
from unet_batch.inference import postprocessing
from unet_batch.inference.postprocessing import RAW, finish_labels
from unet_batch.planning.specs.postprocess import PostprocessStep
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.folder_store import FolderStore
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.layout import Layout

SHAPE = (20, 17, 23)
CLASSES = (LabelClass(0, "background"), LabelClass(1, "liver"), LabelClass(2, "tumour"))
STEPS = TypeAdapter(tuple[PostprocessStep, ...]).validate_python(
    [
        {"step": "remove_small", "min_mm3": 12.0},
        {"step": "fill_holes"},
        {"step": "largest_component", "classes": ["liver"]},
    ]
)


def predicted() -> Any:
    coarse = np.random.default_rng(3).choice(3, (10, 9, 12), p=[0.3, 0.5, 0.2]).astype(np.uint8)
    return coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]


def mended() -> Any:
    """scipy on the whole volume; a voxel is 1 mm by 2 mm by 0.5 mm."""
    labels = predicted()
    for value in (1, 2):
        found, _ = ndimage.label(labels == value)
        labels[(found > 0) & (np.bincount(found.ravel())[found] * 1.0 < 12)] = 0
    for value in (1, 2):
        labels[ndimage.binary_fill_holes(labels == value) & (labels == 0)] = value
    found, _ = ndimage.label(labels == 1)
    labels[(found > 0) & (found != 1 + np.bincount(found.ravel())[1:].argmax())] = 0
    return labels


@pytest.fixture
def writer(tmp_path: Path) -> LabelsWriter:
    """A writer of 27 Shards, whose stage RAW is written."""
    affine = tuple(np.diag([1.0, 2.0, 0.5, 1.0])[[1, 0, 2, 3]].ravel().tolist())
    layout = Layout((4, 3, 4), (8, 6, 8))
    writer = LabelsWriter(
        tmp_path.as_uri(), "v", "net", SHAPE, "uint8", CLASSES, "gen", affine, layout
    )
    for region in writer.write_regions():
        writer.staged(RAW).write(region, predicted()[region.slices])
    return writer


def labels_of(writer: LabelsWriter) -> Any:
    writer.prepare()
    result = np.empty(SHAPE, np.uint8)
    for region in writer.write_regions():
        result[region.slices] = writer.read(region)
    return result


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("held_bytes", [0, 2**20])
def test_labels_are_mended_as_on_the_whole_volume(
    writer: LabelsWriter, tmp_path: Path, monkeypatch: Any, held_bytes: int
) -> None:
    monkeypatch.setattr(postprocessing, "HELD_BYTES", held_bytes)
    assert finish_labels(writer, STEPS) == 20 * 17 * 23
    assert (predicted() != mended()).sum() > 100
    np.testing.assert_array_equal(labels_of(writer), mended())
    (generation,) = {path.parent for path in tmp_path.rglob("c.*")}
    assert generation.name == "gen"  # no stage is left


@pytest.mark.parametrize("survived", [0, 5, 29, 60, 83, 84, 86])
def test_killed_anywhere_and_repeated_the_bytes_are_the_same(
    writer: LabelsWriter, tmp_path: Path, monkeypatch: Any, survived: int
) -> None:
    monkeypatch.setattr(postprocessing, "HELD_BYTES", 0)
    with monkeypatch.context() as patch:
        die_after(survived, patch)
        with pytest.raises(KeyboardInterrupt):
            finish_labels(writer, STEPS)
    finish_labels(writer, STEPS)
    again = files(tmp_path)
    finish_labels(writer, STEPS)  # and once more, with nothing left to do
    assert files(tmp_path) == again
    np.testing.assert_array_equal(labels_of(writer), mended())


def die_after(number: int, patch: Any) -> None:
    """Let `number` objects be stored or folders be removed, then die."""
    left = iter(range(number))

    def mortal(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return method(*arguments)

        return call

    patch.setattr(FolderStore, "put", mortal(FolderStore.put))
    patch.setattr(FolderStore, "delete_folder", mortal(FolderStore.delete_folder))


def test_labels_of_one_class_take_only_the_steps_that_concern_it(writer: LabelsWriter) -> None:
    one = replace(writer, classes=(CLASSES[0], CLASSES[2]))
    finish_labels(one, STEPS[2:])  # for the liver alone
    np.testing.assert_array_equal(labels_of(one), predicted())


def test_probabilities_stay_as_they_were_predicted(writer: LabelsWriter, tmp_path: Path) -> None:
    both = replace(writer, probabilities=("liver", "tumour"))
    half = np.full((2, *SHAPE), 127, np.uint8)
    for region in both.write_regions():
        both.staged(RAW).write(region, predicted()[region.slices], half[:, *region.slices])
    before = files(tmp_path / "volumes/v/labels/net/gen-probabilities")
    finish_labels(both, STEPS)
    assert both.missing_regions() == []
    after = files(tmp_path / "volumes/v/labels/net/gen-probabilities")
    assert {path: after[path] for path in before} == before
    np.testing.assert_array_equal(labels_of(both), mended())


def test_a_stage_that_is_not_there_is_named(writer: LabelsWriter) -> None:
    with pytest.raises(NotFoundError, match="gen-other"):
        writer.staged("other").read(writer.write_regions()[0])


def test_only_a_stage_can_be_discarded(writer: LabelsWriter) -> None:
    with pytest.raises(ValueError, match="gen is no stage"):
        writer.discard()
