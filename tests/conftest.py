"""Fixtures that every test may use, and how `pytest -n 2` shares the tests out.

One machine bears one local Ray: the tests that use it go to one process, and first, as they
take longest; the others go file by file to whichever process is free.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared-machine", deadline=None, max_examples=40)
settings.load_profile("shared-machine")

REAL_SCANS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        config.option.dist, config.option.loadscopereorder = "loadgroup", False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    for item in items:
        on_ray = item.get_closest_marker("ray") is not None
        item.add_marker(pytest.mark.xdist_group("ray" if on_ray else item.path.name))


@pytest.fixture(scope="session")
def scans() -> Path:
    """The folder of real scans; tests that need it are skipped, visibly, where it is missing."""
    if not (REAL_SCANS / "MANIFEST.csv").exists():
        pytest.skip(f"real scans not found at {REAL_SCANS}")
    return REAL_SCANS


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray with four logical CPUs and a small object store, for the whole run."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ub", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=400 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
