"""The files of a source (file, folder or pattern), on disk or in a bucket; nothing beyond it.

Links that lead out of the source, hidden files, Archives and whatever the caller excludes are
left alone; links are worth a note, because somebody put them there on purpose. A Zarr folder
counts as one file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from unet_batch.errors import SpecError
from unet_batch.formats.ngff import is_zarr
from unet_batch.formats.remote import AnyPath, Locate, RemotePath, below, on_disk

_ARCHIVE_DOCUMENT = "archive.json"
_WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """Files below `root`, sorted by folder and name, and notes on links not followed."""

    root: AnyPath
    files: tuple[AnyPath, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """What every walk leaves out: file name patterns, and whole folders.

    `locate` makes paths of addresses; by default of places on disk alone.
    """

    exclude: tuple[str, ...] = ()
    skip_folders: frozenset[AnyPath] = frozenset()
    locate: Locate = on_disk

    def find(self, source: str | Path) -> FoundFiles:
        """The files of `source`; of a pattern, below its folders before the first wildcard.

        Raises SpecError where nothing is there.
        """
        text = str(source)
        path = self.locate(text)
        if path.is_dir() and not is_zarr(path):
            return self._checked(path, self._below(path))
        if path.exists():
            return FoundFiles(path.parent, (path,), ())
        root = _fixed_part(path)
        if root == path or not root.is_dir():
            looked = f" (looked in {Path.cwd()})" if isinstance(path, Path) else ""
            raise SpecError(f"no file, folder or match at {text!r}{looked}")
        matches: list[AnyPath] = sorted(root.glob(str(below(path, root))))
        inside = (found for match in matches for found in self._expand(match))
        return self._checked(root, inside)

    def _checked(self, root: AnyPath, found: Iterator[AnyPath]) -> FoundFiles:
        files, notes = [], []
        for path in found:
            if below(path.resolve(), root) is None:
                notes.append(f"{path}: skipped, a link that leads out of {root}")
            elif path.is_file() or is_zarr(path):
                files.append(path)
        if isinstance(root, RemotePath):
            notes += root.tree.notes(root.key)
        return FoundFiles(root, tuple(files), tuple(notes))

    def _expand(self, match: AnyPath) -> Iterator[AnyPath]:
        if match.is_dir():
            if self._may_enter(match):
                yield from [match] if is_zarr(match) else self._below(match)
        elif self._is_wanted(match):
            yield match

    def _below(self, root: AnyPath) -> Iterator[AnyPath]:
        for here, subfolders, names in _walk(root):
            entered = [name for name in sorted(subfolders) if self._may_enter(here / name)]
            arrays = [name for name in entered if is_zarr(here / name)]
            subfolders[:] = [name for name in entered if name not in arrays]
            yield from (here / name for name in arrays if self._is_wanted(here / name))
            yield from (here / name for name in sorted(names) if self._is_wanted(here / name))

    def _may_enter(self, folder: AnyPath) -> bool:
        if folder.name.startswith(".") or folder.is_symlink():
            return False
        return folder not in self.skip_folders and not (folder / _ARCHIVE_DOCUMENT).exists()

    def _is_wanted(self, path: AnyPath) -> bool:
        hidden = path.name.startswith(".")
        return not hidden and not any(fnmatchcase(path.name, p) for p in self.exclude)


def _walk(root: AnyPath) -> Iterator[tuple[AnyPath, list[str], list[str]]]:
    """Folders from `root` down, each with names of folders, which may be taken out, and files."""
    if isinstance(root, RemotePath):
        yield from root.walk()
        return
    for folder, subfolders, names in os.walk(root, followlinks=False):
        yield Path(folder), subfolders, names


def _fixed_part(pattern: AnyPath) -> AnyPath:
    """The folders of `pattern` before its first wildcard; all of it where it has none."""
    fixed = pattern
    for path in (pattern, *pattern.parents):
        if _WILDCARDS.search(path.name):
            fixed = path.parent
    return fixed
