"""The contract of a registry in every kind of store."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unet_batch.errors import ConflictError, NotFoundError, SpecError, StoreError
from unet_batch.planning.model_versions import (
    DataUse,
    Decision,
    ModelReference,
    ModelVersion,
    UsedVolume,
)
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.registry import DOCUMENT, Registry, open_registry
from unet_batch.storage.who import Note

NOTE = Note("ada", "2026-11-22T01:00:00+00:00", "a test")


@pytest.fixture
def registry(store: ObjectStore) -> Registry:
    return open_registry(store.url, create=True)


@pytest.fixture
def folder_registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry", create=True)


def hash_of(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    for name in ("configs/unet_batch.json", "models/model.safetensors", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def add(registry: Registry, bundle: Path, number: int, name: str = "liver") -> ModelVersion:
    scores = {"mean_dice": number / 10}
    content_hash = hash_of(number)
    return registry.add(name, bundle, content_hash=content_hash, note=NOTE, scores=scores)


def test_versions_are_counted_and_told(registry: Registry, bundle: Path) -> None:
    assert [add(registry, bundle, k).version for k in (1, 2, 3)] == [1, 2, 3]
    assert registry.names() == ["liver"]
    third = registry.version(ModelReference(name="liver", version=3))
    assert (third.content_hash, third.scores, third.by) == (hash_of(3), {"mean_dice": 0.3}, "ada")
    assert sorted(third.files) == ["configs/unet_batch.json", "models/model.safetensors"]
    stored = registry.store.get(f"{registry.bundle_path(third)}/models/model.safetensors")
    assert stored == b"models/model.safetensors"


def test_the_same_bundle_again_is_the_same_version(folder_registry: Registry, bundle: Path) -> None:
    assert add(folder_registry, bundle, 1) == add(folder_registry, bundle, 1)
    assert len(folder_registry.versions("liver")) == 1


def test_of_bundles_added_at_once_each_gets_a_version_of_its_own(
    registry: Registry, bundle: Path
) -> None:
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda k: add(registry, bundle, k), range(6)))
    assert sorted(one.version for one in added) == [1, 2, 3, 4, 5, 6]
    assert {one.content_hash for one in registry.versions("liver")} == set(map(hash_of, range(6)))


def test_the_champion_moves_and_every_move_is_kept(registry: Registry, bundle: Path) -> None:
    first, second = add(registry, bundle, 1), add(registry, bundle, 2)
    assert registry.champion("liver") is None
    registry.promote(first, replaces=None, note=NOTE)
    registry.promote(second, replaces=1, note=NOTE, scores={"mean_dice": 0.9})
    assert registry.version(ModelReference(name="liver")) == second
    registry.roll_back("liver", note=NOTE)
    moves = [(one.kind, one.replaces, one.version, one.scores) for one in registry.moves("liver")]
    assert moves == [
        ("promote", None, 1, {"mean_dice": 0.1}),
        ("promote", 1, 2, {"mean_dice": 0.9}),
        ("rollback", 2, 1, {"mean_dice": 0.1}),
    ]
    with pytest.raises(SpecError, match="none before"):
        registry.roll_back("liver", note=NOTE)


def test_a_promotion_on_old_knowledge_is_refused_and_changes_nothing(
    registry: Registry, bundle: Path
) -> None:
    one, two, three = (add(registry, bundle, k) for k in (1, 2, 3))
    registry.promote(one, replaces=None, note=NOTE)
    registry.promote(two, replaces=1, note=NOTE)
    with pytest.raises(ConflictError, match=r"it is liver@2 \(by ada, .*Nothing was changed"):
        registry.promote(three, replaces=1, note=NOTE)
    with pytest.raises(ConflictError, match="decide again"):
        registry.promote(three, replaces=None, note=NOTE)
    assert len(registry.moves("liver")) == 2


def test_a_promotion_again_is_no_second_move(folder_registry: Registry, bundle: Path) -> None:
    version = add(folder_registry, bundle, 1)
    moves = [folder_registry.promote(version, replaces=None, note=NOTE) for _ in range(2)]
    assert moves[0] == moves[1]
    assert len(folder_registry.moves("liver")) == 1


def test_of_promotions_at_once_one_wins_and_the_others_are_told(
    registry: Registry, bundle: Path
) -> None:
    versions = [add(registry, bundle, k) for k in range(5)]
    registry.promote(versions[0], replaces=None, note=NOTE)

    def promote(version: ModelVersion) -> int:
        try:
            return registry.promote(version, replaces=1, note=NOTE).version
        except ConflictError:
            return 0

    with ThreadPoolExecutor(4) as pool:
        winners = [one for one in pool.map(promote, versions[1:]) if one]
    assert [one.version for one in registry.moves("liver")] == [1, *winners]
    assert len(winners) == 1


def test_what_is_not_there_is_named_with_what_is(folder_registry: Registry, bundle: Path) -> None:
    add(folder_registry, bundle, 1)
    for reference, message in {
        ModelReference(name="lever", version=1): "no model 'lever'.*it has: liver",
        ModelReference(name="liver", version=9): "liver@9: no such version.*newest of 1 is liver@1",
        ModelReference(name="liver"): "no champion yet.*models promote liver@1",
    }.items():
        with pytest.raises(NotFoundError, match=message):
            folder_registry.version(reference)


def test_a_decision_is_final(registry: Registry) -> None:
    kept = Decision(version=2, champion=1, is_promoted=False, reasons=("worse",))
    other = kept.model_copy(update={"is_promoted": True})
    assert registry.decision("liver", 2) is None
    assert registry.decide("liver", kept) == kept
    assert registry.decide("liver", other) == kept
    assert registry.decision("liver", 2) == kept


def test_what_was_learnt_from_is_remembered(folder_registry: Registry, bundle: Path) -> None:
    data = DataUse(train=(UsedVolume(volume_id="a", content_hash="1", truth_key="k"),))
    content_hash = hash_of(1)
    folder_registry.add("m", bundle, content_hash=content_hash, note=NOTE, data=data, recipe="r")
    found = folder_registry.version(ModelReference(name="m", version=1))
    assert (folder_registry.data(found), found.recipe, found.num_trained_on) == (data, "r", 1)
    folder_registry.store.put(f"models/m/data/{found.data_digest}.json", b"{}")
    with pytest.raises(StoreError, match="is not what was stored"):
        folder_registry.data(found)


def test_a_crash_before_the_version_is_put_leaves_nothing_to_see(
    folder_registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_put_once", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(folder_registry, bundle, 1)
    assert folder_registry.versions("liver") == []
    assert add(folder_registry, bundle, 1).version == 1


def test_an_address_without_a_registry_says_how_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="models add NAME FOLDER"):
        open_registry(tmp_path)
    (tmp_path / DOCUMENT).write_text(json.dumps({"format": "unet-batch registry", "version": 9}))
    with pytest.raises(StoreError, match="of version 9"):
        open_registry(tmp_path, create=True)


def test_a_damaged_version_is_named(folder_registry: Registry, bundle: Path) -> None:
    add(folder_registry, bundle, 1)
    folder_registry.store.put("models/liver/versions/00000001.json", b'{"name": "liver"}')
    with pytest.raises(StoreError, match=r"versions/00000001\.json is damaged"):
        folder_registry.version(ModelReference(name="liver", version=1))


@pytest.mark.parametrize("name", ["../liver", "a/b", ""])
def test_a_name_stays_within_the_registry(folder_registry: Registry, name: str) -> None:
    with pytest.raises(SpecError, match="name of a model"):
        folder_registry.versions(name)


def test_a_file_that_cannot_be_named_in_every_store_is_refused(
    folder_registry: Registry, bundle: Path
) -> None:
    (bundle / "notes (draft).txt").write_text("x")
    with pytest.raises(SpecError, match="rename or remove it"):
        add(folder_registry, bundle, 1)
