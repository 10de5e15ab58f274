"""The flag that lets code of one's own be imported, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unet_batch.cli.app import app, main
from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import open_archive

ARGUMENTS = ("plan", "--labels", "net", "--no-calibrate")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An Archive of one Volume, and a Bundle whose network is not of the allow-list."""
    archive = open_archive(tmp_path / "archive", create=True)
    archive.write_scan(
        Scan("v", np.zeros((1, 32, 32, 32), np.int16), np.eye(4), ("CT",)), source={}
    )
    config = BundleConfig(
        name="own",
        network_name="monai.networks.nets:BasicUNet",
        network_arguments={"features": [4, 4, 8, 8, 8, 4]},
        channels=("CT",),
        roi=(32, 32, 32),
        classes=(LabelClass(0, "background"), LabelClass(1, "organ")),
        spacing_mm=(1, 1, 1),
    ).trusting(trust_network=True)
    save_bundle(tmp_path / "model", config, config.build_network().state_dict())
    return tmp_path


def places(folder: Path) -> list[str]:
    return ["--archive", str(folder / "archive"), "--model", str(folder / "model")]


def test_without_the_flag_the_network_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["unet-batch", *ARGUMENTS, *places(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "monai.networks.nets:BasicUNet" in said
    assert "--trust-network" in said


def test_with_the_flag_the_job_is_planned(folder: Path) -> None:
    result = CliRunner().invoke(app, [*ARGUMENTS, *places(folder), "--trust-network", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_tiles"] == 1
