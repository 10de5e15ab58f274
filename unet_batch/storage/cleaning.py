"""Leftovers: what writers that died, or were overtaken, left in an Archive, and its removal.

    labels/<name>/<key>/     a generation of a mask that is not the published one
    0-<content hash>/        voxels that no published Volume refers to
    .<name>.<32 hex digits>  temporary files, of folders only

Nothing tells a writer that died from a slow one but time: a leftover counts only when its
newest object is older than a grace period. Whoever takes up an old generation again writes its
description first (`LabelsWriter.prepare`), and so makes it young before publishing it. What is
published is looked up after the objects were listed, and once more before they are removed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unet_batch.errors import NotFoundError
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.object_store import Facts, ObjectStore
from unet_batch.storage.probabilities import probabilities_path

GRACE_S = 24 * 3600.0
"""Far longer than the Labels of one Volume are in the making."""

_NUM_THREADS = 8
_VOXELS = re.compile(r"\d+-[0-9a-f]{16}")  # of an image, or of a level of its pyramid


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder, or one temporary file, at `path`; what it is, how much, and how old."""

    path: str
    what: str
    num_objects: int
    num_bytes: int
    age_s: float


class Cleaner:
    """Finds and removes the leftovers of one Archive that are older than `grace_s`."""

    def __init__(self, store: ObjectStore, *, grace_s: float = GRACE_S) -> None:
        self._store = store
        self._grace_s = grace_s

    def find(self) -> Iterator[Leftover]:
        """All leftovers, Volume by Volume.

        Raises StoreError where a description is damaged: then nobody knows what it refers to.
        """
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            for found in pool.map(self._of_volume, self._store.list_folders(paths.VOLUMES)):
                yield from found
        yield from self._unfinished(self._store.list_unfinished(""))

    def remove(self, leftover: Leftover) -> bool:
        """Remove one, if it still is a leftover; whether it was."""
        parts = leftover.path.split("/")
        if parts[-1].startswith("."):
            self._store.delete(leftover.path)
            return True
        if leftover.path not in [one.path for one in self._of_volume(parts[1])]:
            return False
        self._store.delete_folder(leftover.path)
        return True

    def _of_volume(self, volume_id: str) -> Sequence[Leftover]:
        group = f"{paths.VOLUMES}/{volume_id}"
        facts = self._store.list_facts(group)
        names = {path.removeprefix(f"{group}/").split("/")[0] for path in facts}
        voxels = [name for name in names if _VOXELS.fullmatch(name)]
        current = self._referred_to(group) if voxels else set()
        found = [
            self._leftover(f"{group}/{name}", "voxels of no published Volume", facts)
            for name in sorted(voxels)
            if name not in current
        ]
        for labels in self._store.list_folders(f"{group}/labels"):
            found += self._of_labels(f"{group}/labels/{labels}", facts)
        return [one for one in found if one.age_s > self._grace_s]

    def _of_labels(self, group: str, facts: Facts) -> list[Leftover]:
        keys = self._store.list_folders(group)
        current = self._referred_to(group)
        return [
            self._leftover(f"{group}/{key}", "Labels that are not the published ones", facts)
            for key in keys
            if key not in current
        ]

    def _leftover(self, folder: str, what: str, facts: Facts) -> Leftover:
        inside = [one for path, one in facts.items() if path.startswith(f"{folder}/")]
        newest = max((one.written_at_s for one in inside), default=time.time())
        num_bytes = sum(one.size for one in inside)
        return Leftover(folder, what, len(inside), num_bytes, time.time() - newest)

    def _unfinished(self, facts: Facts) -> Iterator[Leftover]:
        for path, one in sorted(facts.items()):
            age_s = time.time() - one.written_at_s
            if age_s > self._grace_s:
                yield Leftover(path, "a temporary file", 1, one.size, age_s)

    def _referred_to(self, group: str) -> set[str]:
        """Names of the arrays that a published group refers to; none where there is none."""
        path = paths.document(group)
        where = f"{self._store.url}/{path}"
        try:
            document = ome_zarr.read_document(self._store.get(path), where)
        except NotFoundError:
            return set()
        own = ome_zarr.own_attributes(document, where)
        probabilities = (
            {probabilities_path(str(own.get("key")))} if "probabilities" in own else set()
        )
        return ome_zarr.level_names(document) | probabilities
