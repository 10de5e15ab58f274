"""Fixtures that every test may use, and how `pytest -n 2` shares the tests out.

One machine bears one local Ray: the tests that use it go to one process, and first, as they
take longest; the others go file by file to whichever process is free.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("shared-machine", deadline=None, max_examples=40)
settings.load_profile("shared-machine")

REAL_SCANS = Path(__file__).resolve().parents[2] / "shared" / "data"


@cache
def uses_ray(file: Path) -> bool:
    return "pytest.mark.ray" in file.read_text()


class OneRay(LoadScopeScheduling):
    """File by file, but all files that use Ray together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if uses_ray(self.config.rootpath / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay:
    config.option.loadscopereorder = False
    return OneRay(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not uses_ray(item.path))


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

    from unet_batch.inference.cluster import EMBEDDED_SETTINGS

    with tempfile.TemporaryDirectory(prefix="ub", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=400 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
            _system_config=EMBEDDED_SETTINGS,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """A bucket on a real S3 server on loopback; the environment holds its credentials."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "key-of-the-test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
        environment.setenv("AWS_REGION", "us-east-1")
        urlopen(Request(f"http://{host}:{port}/archives", method="PUT")).close()
        yield "archives"
    server.stop()


@pytest.fixture
def upload(s3_bucket: str) -> Callable[[Path], str]:
    """Stores the files of a folder under a new place of the bucket, and returns its URL."""
    from unet_batch.storage.stores import open_store

    def to_bucket(folder: Path) -> str:
        store = open_store(f"s3://{s3_bucket}/{uuid.uuid4().hex}")
        for path in (path for path in folder.rglob("*") if path.is_file()):
            store.put(path.relative_to(folder).as_posix(), path.read_bytes())
        return store.url

    return to_bucket
