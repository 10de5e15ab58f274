"""Where everything lies in an Archive, and which names may become part of a path.

ARCHIVE/
├── archive.json                    format and version
├── catalog/<digest>.parquet        rows of Volumes
├── volumes/<id>/zarr.json          OME-Zarr image; put last, so a Volume is whole or absent
│   ├── 0-<content hash>/           voxels, czyx; none where they were taken in place
│   └── labels/
│       ├── zarr.json               index of names
│       └── <name>/zarr.json        one put of this file publishes a mask
│           └── <key>/              voxels of one generation, zyx
├── quarantine/<id>.json            scans that could not become Volumes, and why
├── keys/pseudonyms.key             what identifiers are hashed with; readable by its owner only
├── references/<digest>.json        which version a request for a champion was begun with
└── jobs/<job id>/                  what it is, how far, what became of each Volume: `job_folder`
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from unet_batch.errors import SpecError

MAX_NAME_LENGTH = 128
"""Characters; two names and a suffix stay below the 255 bytes of common file systems."""

ARCHIVE_DOCUMENT = "archive.json"
CATALOG = "catalog"
VOLUMES = "volumes"
QUARANTINE = "quarantine"
KEY = "keys/pseudonyms.key"
VOXELS_PREFIX = "0-"
SHARD_PREFIX = "c."
"""Of chunk keys in Zarr v3's default encoding with the separator `.`."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str, *, what: str) -> str:
    """`name` itself where it is safe as one segment of a path; SpecError where it is not.

    `what` says in the message what is named: "Volume id", "Labels name".
    """
    safe = _SAFE_NAME.fullmatch(name) and ".." not in name and not name.endswith(".")
    if not safe or len(name) > MAX_NAME_LENGTH or name.lower() == "zarr.json":
        raise SpecError(
            f"{what} {name[:200]!r} cannot be used in a path: expected 1 to {MAX_NAME_LENGTH} "
            "letters, digits, '.', '_' or '-', beginning with a letter or digit, without '..'"
        )
    return name


def volume_path(volume_id: str) -> str:
    """The group of one Volume."""
    return f"{VOLUMES}/{check_name(volume_id, what='Volume id')}"


def quarantine_path(scan_id: str) -> str:
    """The object that says why a scan was quarantined."""
    return f"{QUARANTINE}/{check_name(scan_id, what='scan id')}.json"


def voxels_name(content_hash: str) -> str:
    """The array of a Volume's voxels, relative to its group.

    The name carries the content, so that two writers of the same id never mix their Shards.
    """
    return f"{VOXELS_PREFIX}{content_hash[:16]}"


def labels_index_path(volume_id: str) -> str:
    """The group that lists the names of a Volume's Labels."""
    return f"{volume_path(volume_id)}/labels"


def labels_path(volume_id: str, name: str) -> str:
    """The group of one mask."""
    return f"{labels_index_path(volume_id)}/{check_name(name, what='Labels name')}"


def job_path(job_id: str) -> str:
    """The folder of one Job."""
    return f"jobs/{check_name(job_id, what='Job id')}"


def shard_path(array: str, shard: Iterable[int]) -> str:
    """The object of the Shard at `shard` (its place in the grid of Shards) of an array.

    All Shards of an array lie in one folder: they are few, and a folder for each axis would
    cost a small volume more time than its voxels.
    """
    return f"{array}/{SHARD_PREFIX}{'.'.join(map(str, shard))}"


def document(group_or_array: str) -> str:
    """The metadata document of a Zarr group or array."""
    return f"{group_or_array}/zarr.json"
