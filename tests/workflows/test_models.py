"""A registry as people use it, and what a Job makes of a model's name; no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from unet_batch.cli.app import app
from unet_batch.errors import BundleError, ConflictError, NotFoundError, SpecError
from unet_batch.formats.scan import Scan
from unet_batch.inference.model_address import load_model
from unet_batch.models.bundle import CONFIG, load_bundle
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.registry import open_registry
from unet_batch.workflows.model_references import (
    VARIABLE,
    ModelNote,
    resolve_model,
    resolve_models,
)
from unet_batch.workflows.models import add_model, promote_model
from unet_batch.workflows.segment_job import SegmentJob

from .tiny_bundle import make_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [
        make_bundle(
            folder / f"b{seed}",
            seed,
            scores={"mean_dice": 0.5 + seed / 10},
            data_hashes={"case": "hash"},
        )
        for seed in range(3)
    ]


@pytest.fixture
def registry(tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry of two versions of `organ`, the first its champion; named in the environment."""
    url = str(tmp_path / "registry")
    for bundle in bundles[:2]:
        add_model("organ", bundle, registry_url=url)
    promote_model("organ@1", registry_url=url)
    monkeypatch.setenv(VARIABLE, url)
    return url


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    scan = Scan("a", np.zeros((1, 16, 16, 16), np.int16), np.eye(4), ("CT",), "CT")
    archive.write_scan(scan, source={})
    return archive


def spec_for(archive: Archive, model: str, **fields: object) -> SegmentSpec:
    return SegmentSpec.model_validate(
        {"archive": archive.url, "model": model, "labels": "net", **fields}
    )


def run_json(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_commands_add_promote_show_and_roll_back(tmp_path: Path, bundles: list[Path]) -> None:
    where = ("--registry", tmp_path / "registry")
    for number, bundle in enumerate(bundles[:2], start=1):
        added = run_json("models", "add", "organ", bundle, "--why", "trained by hand", *where)
        assert added["version"] == number
        assert run_json("models", "promote", f"organ@{number}", *where)["version"] == number
    shown = run_json("models", "show", "organ@champion", *where)
    assert (shown["version"]["version"], shown["is_champion"]) == (2, True)
    assert shown["version"]["why"] == "trained by hand"
    assert shown["version"]["num_trained_on"] == 1
    assert load_bundle(shown["folder"]).content_hash == shown["version"]["content_hash"]
    moved = run_json("models", "rollback", "organ", "--why", "spleen was worse", *where)
    assert (moved["version"], moved["replaces"], moved["kind"]) == (1, 2, "rollback")
    rows = run_json("models", "ls", "organ", *where)
    assert [(row["version"], row["is_champion"]) for row in rows] == [
        ("organ@2", False),
        ("organ@1", True),
    ]
    (model,) = run_json("models", "ls", *where)
    assert (model["name"], model["champion"], model["num_versions"]) == ("organ", 1, 2)
    assert len(run_json("models", "show", "organ@1", *where)["moves"]) == 3


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "organ"], ["show", "organ@1"]])
def test_the_commands_print_for_people_too(registry: str, arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    assert "organ@1" in result.stdout


def test_the_champion_means_a_version_and_a_number_that_version(registry: str) -> None:
    assert resolve_model("organ@champion", None).version == "organ@1"
    assert resolve_model("organ@2", None).version == "organ@2"
    assert resolve_model("models/organ", None).version == ""


def test_a_model_that_cannot_be_meant_is_named(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="no model 'lever'"):
        resolve_model("lever@champion", None)
    with pytest.raises(NotFoundError, match=r"organ@9: no such version"):
        resolve_model("organ@9", None)
    with pytest.raises(SpecError, match="expected champion or the number"):
        resolve_model("organ@best", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "organ@1").mkdir()
    with pytest.raises(SpecError, match=r"write \./organ@1 for the folder"):
        resolve_model("organ@1", None)
    assert resolve_model("./organ@1", None).version == ""
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SpecError, match="give --registry URL, or set UNET_BATCH_REGISTRY"):
        resolve_model("organ@2", None)


def test_a_job_records_the_version_and_its_hash(registry: str, archive: Archive) -> None:
    job = SegmentJob.open(spec_for(archive, "organ@champion"))
    assert job.version == "organ@1"
    provenance = job.target("a").provenance
    assert (provenance["version"], provenance["bundle_hash"]) == ("organ@1", job.model_hash)
    assert load_model(job.model_paths[0]).content_hash == job.model_hash
    info = archive.info("a")
    assert SegmentJob.open(spec_for(archive, "organ@1")).key(info) == job.key(info)
    assert SegmentJob.open(spec_for(archive, "organ@2")).key(info) != job.key(info)


def test_the_registry_of_a_spec_goes_before_that_of_the_environment(
    registry: str, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere")
    assert SegmentJob.open(spec_for(archive, "organ@2", registry=registry)).models[0].version
    with pytest.raises(NotFoundError, match="no registry at /nowhere"):
        SegmentJob.open(spec_for(archive, "organ@2"))


def test_a_request_goes_on_with_the_champion_it_was_begun_with(
    registry: str, archive: Archive
) -> None:
    spec = spec_for(archive, "organ@champion")
    begun = resolve_models(spec)
    ModelNote.of(spec).begin(begun)
    promote_model("organ@2", registry_url=registry)
    (resumed,) = resolve_models(spec)
    assert (resumed.version, resumed.address) == ("organ@1", begun[0].address)
    assert "organ@champion is organ@2 by now" in resumed.moved_to
    (other,) = resolve_models(spec_for(archive, "organ@champion", labels="other"))
    assert other.version == "organ@2"
    ModelNote.of(spec).finish()
    assert resolve_models(spec)[0].version == "organ@2"


def test_shares_of_one_request_all_go_on_with_the_same_champion(
    registry: str, archive: Archive
) -> None:
    first, second = (
        spec_for(archive, "organ@champion", partition={"index": k, "of": 2}) for k in (0, 1)
    )
    ModelNote.of(first).begin(resolve_models(first))
    promote_model("organ@2", registry_url=registry)
    ModelNote.of(first).finish()
    assert resolve_models(second)[0].version == "organ@1"
    ModelNote.of(second).begin(resolve_models(second))
    ModelNote.of(second).finish()
    assert resolve_models(first)[0].version == "organ@2"


def test_of_two_runs_that_begin_with_different_champions_one_is_told(
    registry: str, archive: Archive
) -> None:
    spec = spec_for(archive, "organ@champion")
    first = resolve_models(spec)
    promote_model("organ@2", registry_url=registry)
    second = resolve_models(spec)
    ModelNote.of(spec).begin(second)
    ModelNote.of(spec).begin(second)
    with pytest.raises(ConflictError, match="the champion moved in between"):
        ModelNote.of(spec).begin(first)


def test_a_request_that_names_no_champion_leaves_no_note(registry: str, archive: Archive) -> None:
    spec = spec_for(archive, "organ@1")
    ModelNote.of(spec).begin(resolve_models(spec))
    ModelNote.of(spec).finish()
    assert not (Path(archive.url) / "references").exists()


def test_a_bundle_of_other_content_than_was_added_is_refused(
    registry: str, bundles: list[Path]
) -> None:
    """Every file may be what its manifest says, and the Bundle still not the one meant."""
    opened = open_registry(registry)
    (first, _) = opened.versions("organ")
    forged = first.model_copy(update={"content_hash": "f" * 64})
    for name in forged.files:
        content = (bundles[0] / name).read_bytes()
        opened.store.put(f"{opened.bundle_path(forged)}/{name}", content)
    opened.store.put("models/organ/versions/00000003.json", forged.model_dump_json().encode())
    with pytest.raises(BundleError, match="use another version"):
        load_model(f"{registry}#organ@3")


def test_what_is_no_bundle_is_not_added(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=CONFIG.name):
        add_model("organ", tmp_path, registry_url=str(tmp_path / "registry"))
    assert not (tmp_path / "registry").exists()


def test_the_plan_command_takes_a_version(archive: Archive, registry: str, tmp_path: Path) -> None:
    chosen = ("-a", archive.url, "-m", "organ@2", "-l", "net", "--registry", registry)
    planned = run_json("plan", *chosen, "--no-calibrate")
    assert [one["volume_id"] for one in planned["volumes"]] == ["a"]
