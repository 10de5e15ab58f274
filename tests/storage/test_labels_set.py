from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unet_batch.errors import ConflictError, SpecError
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.labels_set import BACKGROUND, LabelsSet, overlapping_names
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.layout import Layout
from unet_batch.storage.volume import LabelsByName

SHAPE, CLASSES = (4, 6, 5), (LabelClass(1, "whole"), LabelClass(2, "core"))
AFFINE = tuple(np.eye(4).ravel())


def labels_set(root: Path, *, key: str = "k1", with_probabilities: bool = True) -> LabelsSet:
    names = overlapping_names("net", CLASSES)
    writers = [
        LabelsWriter(
            str(root), "v", name, SHAPE, "uint8", (BACKGROUND, one), key, AFFINE,
            Layout((2, 3, 5), (4, 3, 5)), (one.name,) if with_probabilities else (),
        )
        for name, one in zip(names, CLASSES, strict=True)
    ]  # fmt: skip
    return LabelsSet("net", tuple(writers))


def write(labels: LabelsSet, seed: int = 0) -> np.ndarray:
    planes = np.random.default_rng(seed).integers(0, 255, (labels.num_planes, *SHAPE), np.uint8)
    labels.prepare()
    for region in labels.writers[0].write_regions():
        labels.write(region, planes[:, *region.slices])
    return planes


def test_planes_are_labels_of_every_class_then_their_probabilities(tmp_path: Path) -> None:
    labels = labels_set(tmp_path)
    planes = write(labels)
    labels.publish({})
    found = LabelsByName(str(tmp_path), "v")
    for number, name in enumerate(("net.whole", "net.core")):
        np.testing.assert_array_equal(found[name].array.compute(), planes[number])
        np.testing.assert_array_equal(
            found[name].probabilities.compute(), planes[2 + number : 3 + number]
        )


def test_without_probabilities_there_is_no_image(tmp_path: Path) -> None:
    labels = labels_set(tmp_path, with_probabilities=False)
    assert labels.num_planes == 2
    write(labels)
    labels.publish({})
    assert LabelsByName(str(tmp_path), "v")["net.core"].probabilities is None
    assert not list(tmp_path.rglob("*probabilities*"))


def test_nothing_is_shown_while_any_class_lacks_a_region(tmp_path: Path) -> None:
    labels = labels_set(tmp_path)
    write(labels)
    next((tmp_path / "volumes/v/labels/net.core/k1-probabilities/0").glob("c.*")).unlink()
    with pytest.raises(ConflictError, match=r"'net.core'.*1 of 2 write regions"):
        labels.publish({})
    assert not list(LabelsByName(str(tmp_path), "v"))
    assert not labels.is_published()


def test_it_is_published_only_when_all_classes_are(tmp_path: Path) -> None:
    labels = labels_set(tmp_path)
    write(labels)
    labels.writers[0].publish({})
    assert not labels.is_published()
    labels.publish({})
    assert labels.is_published()


def test_a_new_generation_takes_the_old_probabilities_away(tmp_path: Path) -> None:
    for seed, key in enumerate(("k1", "k2")):
        labels = labels_set(tmp_path, key=key)
        planes = write(labels, seed)
        labels.publish({})
    folders = {path.name for path in (tmp_path / "volumes/v/labels/net.core").iterdir()}
    assert folders == {"zarr.json", "k2", "k2-probabilities"}
    found = LabelsByName(str(tmp_path), "v")["net.core"]
    np.testing.assert_array_equal(found.probabilities[0].compute(), planes[3])


def test_probabilities_of_another_shape_are_refused(tmp_path: Path) -> None:
    (writer, _) = labels_set(tmp_path).writers
    region = writer.write_regions()[0]
    with pytest.raises(SpecError, match=r"expected uint8 of shape \(1, 4, 3, 5\)"):
        writer.write(region, np.zeros(region.shape, np.uint8), np.zeros((2, 4, 3, 5), np.uint8))


def test_names_of_overlapping_classes_are_safe_and_distinct() -> None:
    classes = (LabelClass(1, "a b"), LabelClass(2, "a-b"), LabelClass(3, "../x"))
    assert overlapping_names("net", classes[:1]) == ["net.a-b"]
    assert overlapping_names("net", classes) == ["net.a-b-1", "net.a-b-2", "net.x-3"]
    assert overlapping_names("net", (replace(classes[0], name="//"),)) == ["net.-1"]
