"""Which Job a Spec asks for: its kind, its name, and that the same command is the same Job."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unet_batch.errors import SpecError
from unet_batch.planning.specs.kinds import KINDS, anchored, job_id, load_any
from unet_batch.planning.specs.segment import SegmentSpec

JOBS = Path(__file__).parents[2] / "jobs"
SPEC = {"archive": "/data/ct", "model": "/models/liver", "labels": "liver"}


def spec_of(**changes: object) -> SegmentSpec:
    return SegmentSpec.model_validate(SPEC | changes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_ready_spec_is_told_from_its_fields(kind: str) -> None:
    assert load_any(JOBS / f"{kind}.yaml")[0] == kind


def test_a_spec_that_may_be_for_two_kinds_needs_one_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"archive": "a", "labels": "l", "truth": "t", "out": "o"}))
    with pytest.raises(SpecError, match="it may be for evaluate or report; say which: --kind"):
        load_any(path)
    assert load_any(path, kind="report")[0] == "report"


def test_a_spec_that_fits_nothing_is_refused_with_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("archive: a\nmodle: b\n")
    with pytest.raises(SpecError, match=r"fields \(archive, modle\) fit no kind of Job"):
        load_any(path)
    with pytest.raises(SpecError, match=r"modle: Extra inputs"):
        load_any(path, kind="segment")
    with pytest.raises(SpecError, match="expected one of ingest, segment"):
        load_any(path, kind="paint")


def test_means_do_not_make_another_job_and_what_decides_does() -> None:
    name = job_id("segment", spec_of())
    assert name.startswith("segment-liver-")
    assert job_id("segment", spec_of(resources={"priority": 5}, truth="t")) == name
    assert job_id("segment", spec_of(archive="s3://bucket/ct")) == name
    others = [
        spec_of(volumes=["a*"]),
        spec_of(model="/models/spleen"),
        spec_of(inference={"overlap": 0.25}),
        spec_of(archive="/data/mr"),
    ]
    assert len({name, *(job_id("segment", one) for one in others)}) == 5


def test_a_path_means_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = spec_of(archive="ct", model=["liver", "organ@champion"])
    there = anchored("segment", relative)
    assert isinstance(there, SegmentSpec)
    assert there.archive == f"{tmp_path}/ct"
    assert there.models == (f"{tmp_path}/liver", "organ@champion")
    assert job_id("segment", relative) == job_id("segment", there)


def test_addresses_and_patterns_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"archive": "s3://b/a", "sources": ["scans/*/CT", "https://x/y.zarr"]}
    truth = {"organ": "masks/{folder}/{stem}.nii.gz", "other": "{folder}/mask"}
    ingest = KINDS["ingest"].spec.model_validate(fields | {"truth": truth})
    monkeypatch.chdir("/tmp")
    values = anchored("ingest", ingest).model_dump()
    assert values["archive"] == "s3://b/a"
    assert values["sources"] == ("/tmp/scans/*/CT", "https://x/y.zarr")
    assert values["truth"]["organ"] == "/tmp/masks/{folder}/{stem}.nii.gz"
    assert values["truth"]["other"] == "{folder}/mask"
