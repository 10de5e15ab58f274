"""Fixtures that every test may use, and how `pytest -n 2` shares the tests out.

One machine bears one local Ray: the tests that use it go to one process, and first, as they
take longest; the others go file by file to whichever process is free.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from hypothesis import settings

settings.register_profile("shared-machine", deadline=None, max_examples=40)
settings.load_profile("shared-machine")

REAL_SCANS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):  # the one that shares out
        config.option.dist, config.option.loadscopereorder = "loadgroup", False
    if hasattr(config, "workerinput"):  # those that it shares out to
        config.option.loadgroup = True


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
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
