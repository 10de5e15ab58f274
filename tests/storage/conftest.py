"""A store, and an Archive, in each of the kinds of places that the package writes to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from unet_batch.formats.scan import Scan
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store

PLACES = ("folder", "memory", "s3", "azure", "gcs")
CLOUDS = {
    "s3": ("s3", "s3_bucket"),
    "azure": ("az", "azure_container"),
    "gcs": ("gs", "gcs_bucket"),
}
"""Scheme, and the fixture that runs a server and names a bucket."""


@pytest.fixture(scope="session")
def azure_container() -> Iterator[str]:
    """A container of Azurite on loopback; the environment holds its credentials."""
    from . import azurite

    command = azurite.program()
    if command is None:
        pytest.skip("azurite-blob is not installed: npm install --global azurite")
    with azurite.running(command, "archives") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_ENDPOINT", address)
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azurite.ACCOUNT)
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.KEY)
        yield "archives"


@pytest.fixture(scope="session")
def gcs_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a stand-in for GCS; the environment names its service account."""
    from . import gcs_server

    folder = tmp_path_factory.mktemp("gcs")
    with gcs_server.running(folder) as account, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_SERVICE_ACCOUNT", account)
        patch.setenv("GOOGLE_ALLOW_HTTP", "true")
        yield "archives"


def empty_place(kind: str, request: pytest.FixtureRequest) -> str:
    """The address of an empty place of one of PLACES."""
    name = uuid.uuid4().hex
    if kind in CLOUDS:
        scheme, fixture = CLOUDS[kind]
        return f"{scheme}://{request.getfixturevalue(fixture)}/{name}"
    folder: Path = request.getfixturevalue("tmp_path")
    return str(folder / "place") if kind == "folder" else f"memory://{name}"


@pytest.fixture(params=PLACES)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty store; the test runs once for each of PLACES."""
    return open_store(empty_place(request.param, request))


@pytest.fixture(params=PLACES[:3])
def place(request: pytest.FixtureRequest) -> str:
    """The address of an empty folder, memory and S3 place."""
    return empty_place(request.param, request)


@pytest.fixture
def archive(place: str) -> Archive:
    """An empty Archive; the test runs once for a folder, memory and S3 each."""
    return open_archive(place, create=True)


@pytest.fixture
def local_archive(tmp_path: Path) -> Archive:
    """An empty Archive in a folder."""
    return open_archive(tmp_path / "archive", create=True)


@pytest.fixture
def make_scan() -> Callable[..., Scan]:
    """Makes Scans of random int16 voxels, oblique and anisotropic; a `seed` names the content."""

    def make(
        name: str = "ct-1", *, seed: int = 0, shape: tuple[int, int, int, int] = (1, 5, 6, 7)
    ) -> Scan:
        voxels = np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)
        affine = np.array([[0.1, 0, -0.8, 5], [0, 0.7, 0, -20], [2.5, 0, 0.1, 3], [0, 0, 0, 1.0]])
        channels = tuple(f"c{i}" for i in range(shape[0]))
        return Scan(name, voxels, affine, channels, modality="CT", metadata={"kernel": "B30f"})

    return make
