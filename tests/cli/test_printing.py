"""What a person reads."""

from __future__ import annotations

import pytest

from unet_batch.cli.printing import print_reasons, print_warnings


def test_a_warning_of_many_volumes_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_warnings({f"v{k}": ["no voxel size"] for k in range(29)} | {"odd": ["stray greys"]})
    said = capsys.readouterr().err
    assert "30 with warnings" in said
    assert "no voxel size: 29 Volumes, such as v0, v1, v2" in said
    assert "stray greys: odd" in said
    assert said.count("no voxel size") == 1


def test_nothing_is_said_where_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    print_warnings({})
    print_reasons("quarantined", {})
    assert capsys.readouterr().err == ""
