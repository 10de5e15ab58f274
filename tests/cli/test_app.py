"""The commands as a person types them, on phantom scans and a real Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from unet_batch.cli.app import app, main
from unet_batch.formats.nifti import write_nifti
from unet_batch.formats.phantom import phantom

COMMANDS = (
    *("demo", "ingest", "ls", "train", "retrain", "plan", "segment", "evaluate", "report"),
    *("export", "models"),
)


def run(*arguments: str | Path, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


def run_json(*arguments: str | Path, status: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", status=status))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    text = run(command, "--help")
    assert "Usage" in text
    assert len(text.splitlines()) > 8


@pytest.fixture(scope="module")
def scans_and_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for seed in range(4):
        scan, mask = phantom(seed, name=f"p{seed}", shape_zyx=(24, 28, 32))
        write_nifti(folder / "images" / f"p{seed}.nii.gz", scan.voxels_czyx, scan.affine)
        write_nifti(folder / "labels" / f"p{seed}.nii.gz", mask.voxels_zyx, mask.affine)
    return folder


TINY = [
    *("--set", "training.steps=4", "--set", "training.batch_size=2"),
    *("--set", "roi=[24,24,24]", "--set", "network.arguments.channels=[4,8]"),
    *("--set", "resources.cpus_per_worker=1"),
]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_main_job_from_scans_to_report(scans_and_masks: Path, tmp_path: Path) -> None:
    archive, model = tmp_path / "archive", tmp_path / "model"
    truth = f"reference={scans_and_masks / 'labels'}"
    found = run_json("ingest", scans_and_masks / "images", "-a", archive, "--truth", truth)
    assert sorted(found["done"]) == ["p0", "p1", "p2", "p3"]
    rows = run_json("ls", archive)
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert rows[0]["labels"] == ["reference"]
    trained = run_json("train", "-a", archive, "-t", "reference", "-o", model, *TINY)
    assert len(trained["held_back_volumes"]) == 1

    chosen = ("-a", archive, "-m", model, "-l", "net")
    planned = run_json("plan", *chosen)
    assert planned["tiles_left"] == planned["num_tiles"] > 0
    assert planned["predicted_s"] > 0
    port = ("--metrics-port", "0", "--truth", "reference")
    done = run_json("segment", *chosen, *port)
    assert (done["done"], done["tiles_predicted"]) == (4, planned["num_tiles"])
    assert run_json("plan", *chosen, "--no-calibrate")["tiles_left"] == 0

    scores = run_json("evaluate", "-a", archive, "-l", "net", "-t", "reference")
    assert scores["num_scored"] == 4
    exported = run_json("export", "-a", archive, "-l", "net", "-o", tmp_path / "masks")
    assert len(exported["done"]) == 4
    mask = nibabel.load(tmp_path / "masks" / "p1.nii.gz")
    source = nibabel.load(scans_and_masks / "images" / "p1.nii.gz")
    assert mask.shape == source.shape
    np.testing.assert_allclose(mask.affine, source.affine, atol=1e-6)
    page = run_json("report", "-a", archive, "-l", "net", "-t", "reference", "-o", tmp_path / "r")
    assert Path(page["path"]).read_text().count("<img") >= 12


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_the_demo_on_own_scans(scans_and_masks: Path, tmp_path: Path) -> None:
    text = run("demo", "--data", scans_and_masks, "-o", tmp_path / "demo", *TINY)
    assert "mean Dice" in text
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_scan_that_fails_is_named_and_the_status_says_so(tmp_path: Path) -> None:
    scan, _ = phantom(1, shape_zyx=(12, 12, 12))
    write_nifti(tmp_path / "good.nii.gz", scan.voxels_czyx, scan.affine)
    (tmp_path / "bad.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes()[:200])
    archive = tmp_path / "archive"
    found = run_json("ingest", tmp_path, "-a", archive, status=1)
    assert found["done"] == ["good"]
    assert "bad" in found["quarantined"]
    run("ingest", tmp_path, "-a", archive, "--set", "allow_quarantined=1")


def test_an_error_is_one_message_and_status_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["unet-batch", "ls", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("unet-batch: no Archive at")
    assert "unet-batch ingest" in message
