from __future__ import annotations

import os
from pathlib import Path

import pytest

from unet_batch.workflows import bench_folder as module
from unet_batch.workflows.bench_folder import TOP_OF_HIERARCHY, bench_folder, flags_of


def is_top(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return bool(flags_of(descriptor) & TOP_OF_HIERARCHY)
    finally:
        os.close(descriptor)


def test_it_is_empty_and_gone_at_the_end() -> None:
    with bench_folder() as folder:
        assert not list(folder.iterdir())
        (folder / "archive" / "volumes").mkdir(parents=True)
    assert not folder.parent.exists()


def test_what_is_made_in_it_is_spread_where_the_disk_can(tmp_path: Path) -> None:
    try:
        module._mark(tmp_path)
    except OSError:
        pytest.skip("this file system has no such attribute")
    with bench_folder() as folder:
        assert is_top(tmp_path)
        assert is_top(folder.parent)
        assert not is_top(folder)


def test_another_file_system_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "ioctl", refuse)
    with bench_folder() as folder:
        assert folder.is_dir()
