"""A Job that mends its Labels: as scipy would on the whole volume, each class by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from unet_batch.errors import SpecError
from unet_batch.formats.scan import Scan
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.layout import Layout
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob

from .tiny_bundle import CLASSES, make_bundle

SHAPES = [(40, 30, 20), (9, 12, 10)]
SIGMOID: dict[str, Any] = {"activation": "sigmoid", "classes": CLASSES[1:]}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """A Volume of 18 Shards, and one of one."""
    archive = open_archive(tmp_path / "archive", create=True)
    random = np.random.default_rng(0)
    for number, shape in enumerate(SHAPES):
        voxels = random.integers(-1000, 1000, (1, *shape)).astype(np.int16)
        layout = Layout((8, 8, 8), (16, 16, 8)) if number == 0 else None
        scan = Scan(f"v{number}", voxels, np.eye(4), ("CT",), "CT")
        archive.write_scan(scan, source={}, layout=layout)
    return archive


def spec_for(archive: Archive, bundle: Path, labels: str, *steps: dict[str, Any]) -> SegmentSpec:
    return SegmentSpec.model_validate(
        {
            "archive": archive.url,
            "model": str(bundle),
            "labels": labels,
            "inference": {"precision": "fp32", "batch_size": 2, "postprocess": steps},
            "resources": {"memory_budget": "1GiB", "cpus_per_replica": 1},
        }
    )


def largest_of(mask: Any) -> Any:
    found, number = ndimage.label(mask)
    return found == 1 + np.bincount(found.ravel())[1:].argmax() if number else mask


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_labels_are_mended_before_they_are_published(archive: Archive, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    plain = segment(spec_for(archive, bundle, "plain"))
    steps = [{"step": "fill_holes"}, {"step": "largest_component"}]
    summary = segment(spec_for(archive, bundle, "mended", *steps))
    assert (summary.done, summary.quarantined) == (2, {})
    assert summary.stage_seconds["postprocess"] > 0
    assert "postprocess" not in plain.stage_seconds
    for number in range(len(SHAPES)):
        labels = archive[f"v{number}"].labels
        expected = labels["plain"].array.compute()
        for value in (1, 5):
            expected[ndimage.binary_fill_holes(expected == value) & (expected == 0)] = value
        for value in (1, 5):
            mask = expected == value
            expected[mask & ~largest_of(mask)] = 0
        np.testing.assert_array_equal(labels["mended"].array.compute(), expected)
        assert (expected != labels["plain"].array.compute()).any()
        assert labels["mended"].provenance["inference"]["postprocess"] != []
    assert not list((tmp_path / "archive").rglob("*-raw"))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_overlapping_classes_are_mended_each_in_its_own_labels(
    archive: Archive, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "tiny", **SIGMOID)
    step = {"step": "largest_component", "classes": ["lesion"]}
    assert segment(spec_for(archive, bundle, "net", step)).quarantined == {}
    labels = archive["v0"].labels
    _, num_lesions = ndimage.label(labels["net.lesion"].array.compute())
    _, num_organs = ndimage.label(labels["net.organ"].array.compute())
    assert num_organs > num_lesions == 1


@pytest.mark.parametrize(
    ("changes", "step", "reason"),
    [
        ({}, {"classes": ["kidney"]}, "names the classes .'kidney'.*it has .'organ'"),
        (SIGMOID, {"together": True}, "drop `together`"),
    ],
)
def test_steps_that_do_not_fit_the_model_are_refused_beforehand(
    archive: Archive, tmp_path: Path, changes: dict[str, Any], step: dict[str, Any], reason: str
) -> None:
    bundle = make_bundle(tmp_path / "tiny", **changes)
    with pytest.raises(SpecError, match=reason):
        SegmentJob.open(spec_for(archive, bundle, "net", {"step": "fill_holes"} | step))


def test_steps_are_part_of_what_names_a_generation(archive: Archive, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    plain = SegmentJob.open(spec_for(archive, bundle, "net"))
    mended = SegmentJob.open(spec_for(archive, bundle, "net", {"step": "fill_holes"}))
    assert plain.id != mended.id
    assert plain.key(plain.infos[0]) != mended.key(plain.infos[0])
