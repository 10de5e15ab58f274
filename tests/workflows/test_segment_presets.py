"""Presets of the main job on a real Ray, from the Spec to what readers see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr
from monai.inferers import SlidingWindowInferer

from unet_batch.errors import BundleError, SpecError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.models.bundle import load_bundle
from unet_batch.models.intensity import Normalizer
from unet_batch.models.precision import has_native_bf16
from unet_batch.monitoring.events import Event, Scored, StageTimed
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.layout import Layout
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob

from .tiny_bundle import CLASSES, make_bundle

SIGMOID = (LabelClass(1, "whole tumour"), LabelClass(2, "core"))


def add_volume(archive: Archive, name: str, shape: tuple[int, int, int], air: int = 0) -> None:
    voxels = np.random.default_rng(0).integers(-900, 1000, (1, *shape)).astype(np.int16)
    voxels[:, shape[0] - air :] = -1000
    shard = tuple(-(-n // 2) for n in shape)
    layout = Layout(shard, shard)
    archive.write_scan(Scan(name, voxels, np.eye(4), ("CT",), "CT"), source={}, layout=layout)


def spec_for(archive: Archive, *bundles: Path, **changes: object) -> SegmentSpec:
    fields: dict[str, object] = {
        "archive": archive.url,
        "model": [str(bundle) for bundle in bundles],
        "labels": "net",
        "resources": {"memory_budget": "1GiB", "cpus_per_replica": 1},
    }
    inference = {"precision": "fp32", "batch_size": 2} | dict(changes.pop("inference", {}))
    return SegmentSpec.model_validate(fields | changes | {"inference": inference})


def monai_probabilities(
    archive: Archive, name: str, *bundles: Path, mirror: tuple[int, ...] = ()
) -> np.ndarray:
    """Mean over the Bundles of their probabilities on the whole Volume."""
    volume, each = archive[name], []
    for bundle in map(load_bundle, bundles):
        raw = torch.from_numpy(volume.image.compute())
        image = Normalizer.fit(bundle.intensity, volume.info.statistics).apply(raw)
        inferer = SlidingWindowInferer(bundle.roi, sw_batch_size=2, overlap=0.5, mode="gaussian")
        with torch.inference_mode():
            logits = inferer(image[None], mirrored(bundle.network(), mirror))[0]
        each.append(logits.softmax(0) if bundle.activation == "softmax" else logits.sigmoid())
    return torch.stack(each).mean(0).numpy()


def mirrored(
    network: Callable[[torch.Tensor], torch.Tensor], dims: tuple[int, ...]
) -> Callable[[torch.Tensor], torch.Tensor]:
    if not dims:
        return network
    inner = mirrored(network, dims[1:])
    return lambda tiles: (inner(tiles) + inner(tiles.flip(dims[0])).flip(dims[0])) / 2


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path / "archive", create=True)


@pytest.fixture
def bundles(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        a=make_bundle(tmp_path / "a", name="a"),
        b=make_bundle(tmp_path / "b", seed=1, name="b"),
        sigmoid=make_bundle(tmp_path / "sigmoid", activation="sigmoid", classes=SIGMOID),
    )


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_an_ensemble_with_probabilities_cut_into_many_blocks(
    archive: Archive, bundles: SimpleNamespace
) -> None:
    add_volume(archive, "v0", (60, 40, 30))
    inference = {"probabilities": True, "cuts": "travel"}
    resources = {"memory_budget": "3MiB", "cpus_per_replica": 1}
    spec = spec_for(archive, bundles.a, bundles.b, inference=inference, resources=resources)
    summary = segment(spec)
    assert (summary.done, summary.quarantined) == (1, {})
    assert summary.tiles_predicted == summary.tiles_planned
    assert "stitch" in summary.stage_seconds
    theirs = monai_probabilities(archive, "v0", bundles.a, bundles.b)
    labels = archive["v0"].labels["net"]
    best = np.sort(theirs, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    expected = np.array([0, 1, 5])[theirs.argmax(0)]
    np.testing.assert_array_equal(labels.array.compute()[clear], expected[clear])
    assert labels.probability_names == ("background", "organ", "lesion")
    np.testing.assert_allclose(labels.probabilities.compute(), 255 * theirs, atol=0.6)
    assert [one["model"] for one in labels.provenance["members"]] == ["a", "b"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_overlapping_classes_become_labels_each_and_a_crash_between_them_is_mended(
    archive: Archive, bundles: SimpleNamespace, tmp_path: Path
) -> None:
    add_volume(archive, "v0", (40, 30, 20))
    spec = spec_for(archive, bundles.sigmoid, inference={"probabilities": True})
    assert segment(spec).done == 1
    theirs = monai_probabilities(archive, "v0", bundles.sigmoid)
    for name, one, p in zip(["net.whole-tumour", "net.core"], SIGMOID, theirs, strict=True):
        labels = archive["v0"].labels[name]
        assert labels.classes[1] == one
        clear = np.abs(p - 0.5) > 1e-4
        found = labels.array.compute()[clear]
        np.testing.assert_array_equal(found, (one.value * (p > 0.5))[clear])
        np.testing.assert_allclose(labels.probabilities.compute()[0], 255 * p, atol=0.6)
    folder = tmp_path / "archive/volumes/v0/labels"
    before = all_bytes(folder)
    (folder / "net.core/zarr.json").unlink()  # as before it was published
    next(folder.glob("net.core/*-probabilities/0/c.*")).unlink()
    assert segment(spec).done == 1
    assert all_bytes(folder) == before
    again = segment(spec)
    assert (again.skipped, again.tiles_predicted) == (1, 0)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_overlapping_classes_are_scored_each_for_itself(
    archive: Archive, bundles: SimpleNamespace
) -> None:
    add_volume(archive, "v0", (20, 20, 20))
    volume, classes = archive["v0"], (LabelClass(0, "background"), *SIGMOID)
    truth = np.random.default_rng(1).integers(0, 3, (20, 20, 20)).astype(np.uint8)
    for name in ("truth", "truth.core"):
        volume.write_labels(name, Mask(truth, volume.affine, classes), provenance={})
    archive.catalog.refresh_labels({"v0"})
    spec = spec_for(archive, bundles.sigmoid, truth="truth")
    truths = SegmentJob.open(spec).labels_truths
    assert truths == {"net.whole-tumour": "truth", "net.core": "truth.core"}
    heard: list[Event] = []
    segment(spec, listen=heard.append)
    names = [event.class_name for event in heard if isinstance(event, Scored)]
    assert sorted(names) == ["core", "whole tumour"]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_mirrored_tiles_equal_a_mirrored_network_and_air_is_skipped(
    archive: Archive, bundles: SimpleNamespace
) -> None:
    add_volume(archive, "v0", (64, 20, 20), air=40)
    add_volume(archive, "v1", (20, 20, 20), air=20)
    inference = {"mirror": ["z", "x"], "skip_below": -950, "skip_channel": "CT"}
    heard: list[Event] = []
    summary = segment(spec_for(archive, bundles.a, inference=inference), listen=heard.append)
    assert summary.done == 2
    assert summary.tiles_skipped > 0
    assert summary.tiles_predicted + summary.tiles_skipped == summary.tiles_planned
    told = sum(event.num_skipped for event in heard if isinstance(event, StageTimed))
    assert told == summary.tiles_skipped
    theirs = monai_probabilities(archive, "v0", bundles.a, mirror=(2, 4))
    best = np.sort(theirs, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    clear[16:] = False  # from here on tiles of air count in MONAI's mean
    found = archive["v0"].labels["net"].array.compute()
    np.testing.assert_array_equal(found[clear], np.array([0, 1, 5])[theirs.argmax(0)][clear])
    assert not found[40:].any()
    assert not archive["v1"].labels["net"].array.compute().any()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.skipif(not has_native_bf16(torch.device("cpu")), reason="this CPU has no bfloat16")
def test_bfloat16_gives_way_to_float32_where_it_changes_too_many_labels(
    archive: Archive, bundles: SimpleNamespace
) -> None:
    add_volume(archive, "v0", (40, 30, 20))
    found = {}
    for name, precision, tolerance in [
        ("exact", "fp32", 0),
        ("strict", "auto", 0),
        ("loose", "auto", 1),
    ]:
        inference = {"precision": precision, "bf16_tolerance": tolerance}
        summary = segment(spec_for(archive, bundles.a, labels=name, inference=inference))
        found[name] = archive["v0"].labels[name].array.compute()
        assert [one for one in summary.warnings if "bfloat16" in one] == list(summary.warnings)
        assert len(summary.warnings) == (name == "strict")
    np.testing.assert_array_equal(found["strict"], found["exact"])
    assert 0.5 < (found["loose"] == found["exact"]).mean() < 1
    job = SegmentJob.open(spec_for(archive, bundles.a, labels=name, inference=inference))
    with archive.ledger(job.id) as ledger:
        assert 0 < ledger.decision("bf16_disagreement") < 0.5


def test_the_tiles_of_a_planar_network_have_no_z_to_mirror(
    archive: Archive, tmp_path: Path
) -> None:
    planar = make_bundle(tmp_path / "planar", spatial_dims=2, roi=(16, 16))
    SegmentJob.open(spec_for(archive, planar, inference={"mirror": ["y", "x"]}))
    with pytest.raises(SpecError, match="no z to mirror"):
        SegmentJob.open(spec_for(archive, planar, inference={"mirror": ["z"]}))


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_probabilities_are_an_ngff_image_that_the_labels_name(
    archive: Archive, bundles: SimpleNamespace, tmp_path: Path
) -> None:
    yaozarrs = pytest.importorskip("yaozarrs")
    add_volume(archive, "v0", (20, 20, 20))
    job = SegmentJob.open(spec_for(archive, bundles.a, inference={"probabilities": True}))
    labels = job.target("v0").labels
    labels.prepare()
    random = np.random.default_rng(0)
    whole = random.integers(0, 255, (labels.num_planes, 20, 20, 20)).astype(np.uint8)
    for region in labels.writers[0].write_regions():
        labels.write(region, whole[:, *region.slices])
    assert not list(archive["v0"].labels)
    labels.publish({})
    found = archive["v0"].labels["net"]
    np.testing.assert_array_equal(found.probabilities.compute(), whole[1:])
    group = tmp_path / f"archive/volumes/v0/labels/net/{found.key}-probabilities"
    yaozarrs.validate_zarr_store(str(group))
    np.testing.assert_array_equal(zarr.open_array(str(group / "0"), mode="r")[:], whole[1:])


def test_every_member_counts_in_the_key_of_a_job(
    archive: Archive, bundles: SimpleNamespace
) -> None:
    add_volume(archive, "v0", (20, 20, 20))
    jobs = [
        SegmentJob.open(spec_for(archive, *chosen))
        for chosen in ([bundles.a], [bundles.b], [bundles.a, bundles.b], [bundles.b, bundles.a])
    ]
    assert len({job.id for job in jobs}) == 4
    assert len({job.key(job.infos[0]) for job in jobs}) == 4


@pytest.mark.parametrize("changes", [
    {"intensity": {"mode": "window", "low": -100, "high": 100}},
    {"classes": CLASSES[:2]},
    {"roi": (8, 16, 16)},
])  # fmt: skip
def test_bundles_that_differ_are_no_ensemble(
    archive: Archive, bundles: SimpleNamespace, tmp_path: Path, changes: dict[str, object]
) -> None:
    other = make_bundle(tmp_path / "other", **changes)
    with pytest.raises(BundleError, match=f"cannot be one ensemble: their {next(iter(changes))}"):
        SegmentJob.open(spec_for(archive, bundles.a, other))


def test_a_channel_to_skip_by_must_be_the_models(
    archive: Archive, bundles: SimpleNamespace
) -> None:
    inference = {"skip_below": 0, "skip_channel": "T1"}
    with pytest.raises(SpecError, match=r"'T1': the model's channels are \['CT'\]"):
        SegmentJob.open(spec_for(archive, bundles.a, inference=inference))


def test_members_weights_and_probabilities_count_as_memory(
    archive: Archive, bundles: SimpleNamespace
) -> None:
    add_volume(archive, "v0", (64, 64, 64))

    def bytes_of(*models: Path, **inference: object) -> SimpleNamespace:
        job = SegmentJob.open(spec_for(archive, *models, inference=inference))
        plan = job.plan(job.infos, num_replicas=1)
        found = plan.planner.footprint(plan.volumes["v0"])
        return SimpleNamespace(model=found.model, slab=found.slab, results=found.results)

    plain = bytes_of(bundles.a)
    pair = bytes_of(bundles.a, bundles.b)
    probabilities = bytes_of(bundles.a, probabilities=True)
    assert pair.slab == plain.slab * 7 // 3  # three classes each, and the weights
    assert probabilities.slab == plain.slab * 4 // 3
    assert probabilities.results >= plain.results + 3 * 64**3
    assert bytes_of(bundles.a, mirror=["x"]).model > plain.model


def test_a_mirror_axis_or_a_model_named_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="names an axis twice"):
        SegmentSpec.load(arguments={"archive": "a", "model": "m", "labels": "l"},
                         overrides=["inference.mirror=[x, x]"])  # fmt: skip
    with pytest.raises(SpecError, match="each once"):
        SegmentSpec.load(arguments={"archive": "a", "model": ["m", "m"], "labels": "l"})
