"""Where a model of a registry can be opened as a folder: in place, or as a copy on this machine.

Workers are given an address rather than a folder: `REGISTRY#liver@7`. Where the registry is a
folder that all nodes see, its Bundles are read in place; of one in a bucket each node keeps a
copy, named by content, which no other version can be taken for.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from pathlib import Path

from unet_batch.errors import BundleError, StoreError
from unet_batch.planning.model_versions import ModelReference, ModelVersion
from unet_batch.storage.registry import Registry, open_registry

VARIABLE = "UNET_BATCH_CACHE"
"""In the environment: where copies go, instead of `~/.cache/unet-batch`."""

_ADDRESS = re.compile(r"(?P<registry>.+)#(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)@(?P<number>[0-9]+)")


def address_of(registry: Registry, version: ModelVersion) -> str:
    """What workers find `version` by."""
    return f"{registry.url}#{version}"


def find_model(address: str) -> tuple[Path, ModelVersion | None]:
    """The folder of the Bundle at `address`, and its version where a registry has it.

    Raises NotFoundError, StoreError or BundleError where it cannot be had as it was added.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return Path(address), None
    registry = open_registry(found["registry"])
    reference = ModelReference(name=found["name"], version=int(found["number"]))
    version = registry.version(reference)
    return folder_of(registry, version), version


def folder_of(registry: Registry, version: ModelVersion) -> Path:
    """A folder with the Bundle of `version`, checked against its files' hashes.

    Raises BundleError that names a file which is not what was added.
    """
    if "://" not in registry.url:
        folder = Path(registry.url) / registry.bundle_path(version)
        _check(folder, version)
        return folder
    folder = _cache() / version.content_hash
    if folder.is_dir():
        try:
            _check(folder, version)
        except BundleError:
            shutil.rmtree(folder, ignore_errors=True)  # damaged since: fetched anew
        else:
            return folder
    return _fetch(registry, version, folder)


def _fetch(registry: Registry, version: ModelVersion, folder: Path) -> Path:
    """Copy all files beside `folder`, then rename: another process may be doing the same."""
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        for name in version.files:
            target = unfinished / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(registry.store.get(f"{registry.bundle_path(version)}/{name}"))
        _check(unfinished, version)
        if not folder.is_dir():
            unfinished.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            raise StoreError(
                f"{folder} cannot be written ({error.strerror or error}); {VARIABLE} names another"
                " place for copies of models"
            ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _check(folder: Path, version: ModelVersion) -> None:
    for name, file in version.files.items():
        try:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(
                f"{version}: {folder / name} cannot be read ({error.strerror}); add the Bundle"
                " again under another version"
            ) from error
        if digest != file.sha256:
            raise BundleError(
                f"{version}: {folder / name} is not what was added: expected SHA-256"
                f" {file.sha256[:12]}..., got {digest[:12]}.... Put the file back, or use another"
                " version"
            )


def _cache() -> Path:
    given = os.environ.get(VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "unet-batch"
