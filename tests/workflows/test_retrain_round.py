"""What a retraining collects, and when it goes on with what it had collected; no Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unet_batch.errors import SpecError, StoreError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.model_versions import Decision, ModelVersion
from unet_batch.planning.retraining import Round, request_digest
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.registry import Registry, open_registry
from unet_batch.storage.who import Note
from unet_batch.workflows.models import add_model, promote_model
from unet_batch.workflows.retrain_round import begin_round, collect, read_round, write_round

from .tiny_bundle import make_bundle

CLASSES = (LabelClass(0, "background"), LabelClass(1, "organ"))
NOTE = Note("ada", "2026-11-22T01:00:00+00:00", "")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    for number in range(12):
        voxels = np.full((1, 2, 3, 4), number, np.int16)
        archive.write_scan(Scan(f"v{number:02d}", voxels, np.eye(4), ("MR",)), source={})
        if number < 10:
            label(archive, f"v{number:02d}", 1)
    return archive


def label(archive: Archive, volume_id: str, value: int) -> None:
    mask = Mask(np.full((2, 3, 4), value, np.uint8), np.eye(4), CLASSES)
    archive[volume_id].write_labels("truth", mask, provenance={})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry", create=True)


@pytest.fixture
def spec(archive: Archive, tmp_path: Path) -> RetrainSpec:
    return RetrainSpec(archive=archive.url, truth="truth", model="organ", work=str(tmp_path))


def test_patients_are_collected_from_what_dicom_said(archive: Archive, spec: RetrainSpec) -> None:
    scan = Scan("w", np.ones((1, 2, 3, 4), np.int16), np.eye(4), ("MR",), metadata={"patient": "p"})
    archive.write_scan(scan, source={})
    label(archive, "w", 1)
    patients = {one.volume_id: one.patient for one in collect(archive, spec)}
    assert patients.pop("w") == "p"
    assert set(patients.values()) == {""}


def begun(spec: RetrainSpec, archive: Archive, registry: Registry) -> Round:
    found = begin_round(spec, collect(archive, spec), registry)
    assert isinstance(found, Round)
    return found


def add(registry: Registry, round_: Round, tmp_path: Path, number: int) -> ModelVersion:
    (tmp_path / "bundle").mkdir(exist_ok=True)
    return registry.add(
        "organ",
        tmp_path / "bundle",
        content_hash=f"{number:064x}",
        note=NOTE,
        data=round_.data,
        recipe=round_.request,
    )


def nothing_new(number: int, *, since: str) -> str:
    """Why nothing is trained although there are `number` Volumes."""
    return (
        f"0 of {number} Volumes with the truth 'truth' are new since {since}, and min_new is 1"
        " (0 trains all the same)"
    )


def test_volumes_with_the_truth_are_collected_with_its_generation(
    archive: Archive, spec: RetrainSpec
) -> None:
    before = collect(archive, spec)
    assert [one.volume_id for one in before] == [f"v{k:02d}" for k in range(10)]
    label(archive, "v03", 0)
    label(archive, "v10", 1)
    after = collect(archive, spec)
    assert len(after) == 11
    assert [b.volume_id for b, a in zip(before, after, strict=False) if a != b] == ["v03"]
    with pytest.raises(SpecError, match="none of the 12 Volumes"):
        collect(archive, spec.model_copy(update={"truth": "other"}))


def test_an_unfinished_round_goes_on_with_what_it_collected(
    archive: Archive, spec: RetrainSpec, registry: Registry
) -> None:
    first = begun(spec, archive, registry)
    write_round(registry, "organ", first)
    label(archive, "v10", 1)
    assert begun(spec, archive, registry) == first
    longer = RetrainSpec.model_validate(spec.model_dump() | {"train": {"training": {"steps": 7}}})
    assert begun(longer, archive, registry).num_new == 11


def test_a_round_whose_volume_is_gone_or_whose_champion_moved_is_begun_anew(
    archive: Archive, spec: RetrainSpec, registry: Registry, tmp_path: Path
) -> None:
    first = begun(spec, archive, registry)
    write_round(registry, "organ", first)
    fewer = [one for one in collect(archive, spec) if one.volume_id != "v04"]
    again = begin_round(spec, fewer, registry)
    assert isinstance(again, Round)
    assert again.num_new == 9
    registry.promote(add(registry, again, tmp_path, 1), replaces=None, note=NOTE)
    other = begun(spec, archive, registry)
    assert (other.champion, other.num_new) == (1, 1)


def test_a_round_that_crashed_behind_its_promotion_is_finished(
    archive: Archive, spec: RetrainSpec, registry: Registry, tmp_path: Path
) -> None:
    first = begun(spec, archive, registry)
    version = add(registry, first, tmp_path, 1)
    current = first.model_copy(update={"challenger": version.version})
    write_round(registry, "organ", current)
    registry.promote(version, replaces=None, note=NOTE)
    assert begun(spec, archive, registry) == current
    write_round(registry, "organ", current.model_copy(update={"is_finished": True}))
    reason = begin_round(spec, collect(archive, spec), registry)
    assert isinstance(reason, str)
    assert "0 of 10 Volumes" in reason


def test_what_the_champion_withstood_is_looked_for_by_its_recipe(
    archive: Archive, spec: RetrainSpec, registry: Registry, tmp_path: Path
) -> None:
    first = begun(spec, archive, registry)
    refused = add(registry, first, tmp_path, 1)
    decision = Decision(version=1, champion=None, is_promoted=False, reasons=("poor",))
    registry.decide("organ", decision)
    assert begin_round(spec, collect(archive, spec), registry) == nothing_new(
        10, since="organ@1, a challenger already refused"
    )
    longer = RetrainSpec.model_validate(spec.model_dump() | {"train": {"training": {"steps": 7}}})
    assert request_digest(longer) != refused.recipe
    assert begun(longer, archive, registry).num_new == 10


def test_what_was_rolled_back_is_not_made_again_of_the_same_volumes(
    archive: Archive, spec: RetrainSpec, registry: Registry, tmp_path: Path
) -> None:
    registry.promote(
        add(registry, begun(spec, archive, registry), tmp_path, 1), replaces=None, note=NOTE
    )
    label(archive, "v10", 1)
    better = add(registry, begun(spec, archive, registry), tmp_path, 2)
    decision = Decision(version=2, champion=1, is_promoted=True, reasons=("better",))
    registry.decide("organ", decision)
    registry.promote(better, replaces=1, note=NOTE)
    registry.roll_back("organ", note=NOTE)
    assert begin_round(spec, collect(archive, spec), registry) == nothing_new(
        11, since="organ@2, which was rolled back"
    )
    label(archive, "v11", 1)
    again = begun(spec, archive, registry)
    assert (again.champion, again.num_new) == (1, 2)


def test_a_champion_that_was_trained_by_hand_says_what_it_used(
    archive: Archive, spec: RetrainSpec, registry: Registry, tmp_path: Path
) -> None:
    used = collect(archive, spec)
    hashes = {one.volume_id: one.content_hash for one in used}
    bundle = make_bundle(
        tmp_path / "by-hand",
        data_hashes={k: v for k, v in hashes.items() if k < "v06"},
        held_back_hashes={k: v for k, v in hashes.items() if k >= "v06"},
        truth_keys={one.volume_id: one.truth_key for one in used},
    )
    add_model("organ", bundle, registry_url=registry.url)
    promote_model("organ@1", registry_url=registry.url)
    assert begin_round(spec, collect(archive, spec), registry) == nothing_new(
        10, since="organ@1, the champion"
    )
    label(archive, "v03", 0)
    again = begun(spec, archive, registry)
    assert again.num_new == 1
    assert {one.volume_id for one in again.data.held_back} == {"v06", "v07", "v08", "v09"}


def test_a_damaged_round_is_named(registry: Registry) -> None:
    assert read_round(registry, "organ") is None
    registry.store.put("models/organ/round.json", b"{}")
    with pytest.raises(StoreError, match=r"round\.json is damaged"):
        read_round(registry, "organ")
