"""The commands on an Archive that need no Ray: ls and catalog."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unet_batch.cli.app import app
from unet_batch.errors import SpecError
from unet_batch.formats.scan import Scan
from unet_batch.storage.archive import open_archive


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """A thin CT and a thick MR, and a scan in quarantine."""
    made = open_archive(tmp_path / "archive", create=True)
    for name, modality, mm in (("ct-1", "CT", 1.0), ("mr-1", "MR", 5.0)):
        voxels = np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4)
        made.write_scan(
            Scan(name, voxels, np.diag([mm, 1, 1, 1.0]), (modality,), modality), source={}
        )
    made.quarantine.add("ct-2", "truncated")
    return made.url


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_ls_lists_what_a_condition_chooses(archive: str) -> None:
    text = run("ls", archive, "--where", "modality = 'CT' and spacing_z <= 3")
    assert "1 Volumes" in text
    assert "ct-1" in text
    assert "mr-1" not in text


def test_ls_as_json_is_one_document(archive: str) -> None:
    assert [one["id"] for one in json.loads(run("ls", archive, "--json"))] == ["ct-1", "mr-1"]
    assert json.loads(run("ls", archive, "--json", "--where", "modality = 'PT'")) == []


def test_ls_prints_no_more_than_its_limit(archive: str) -> None:
    text = run("ls", archive, "--limit", "1")
    assert "2 Volumes" in text
    assert "mr-1" not in text


def test_ls_shows_the_quarantine(archive: str) -> None:
    assert "truncated" in run("ls", archive, "--quarantined")
    (entry,) = json.loads(run("ls", archive, "--quarantined", "--json"))
    assert (entry["id"], entry["reason"]) == ("ct-2", "truncated")


def test_a_condition_that_cannot_be_read_is_refused(archive: str) -> None:
    with pytest.raises(SpecError, match="expected a column"):
        run("ls", archive, "--where", "weight > 3")


def test_the_catalog_is_made_again_and_made_small(archive: str) -> None:
    for part in (Path(archive) / "catalog").iterdir():
        part.unlink()
    assert "0 Volumes" in run("ls", archive)
    assert "2" in run("catalog", "rebuild", archive)
    assert "2 Volumes" in run("ls", archive)
    run("catalog", "compact", archive)
    assert len(list((Path(archive) / "catalog").glob("*.parquet"))) == 1


def test_clean_removes_nothing_unless_asked(archive: str) -> None:
    left = Path(archive) / "volumes/ct-1/0-0123456789abcdef/c.0.0.0.0"
    left.parent.mkdir()
    left.write_bytes(b"of a writer that died")
    assert "left behind  0" in run("catalog", "clean", archive)
    listed = run("catalog", "clean", archive, "--older-than", "0")
    assert "0-0123456789abcdef" in listed.replace("\n", "")
    assert left.exists()
    told = json.loads(run("catalog", "clean", archive, "--older-than", "0", "--remove", "--json"))
    assert told["removed"] == ["volumes/ct-1/0-0123456789abcdef"]
    assert not left.exists()
    assert "ct-1" in run("ls", archive)
