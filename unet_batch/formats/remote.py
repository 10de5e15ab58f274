"""RemotePath: an object or folder of a bucket, where a Path of a disk would do.

What finds and reads scans asks few things of a path: its name and parents, what lies in it,
some of its bytes. A Tree answers them for a bucket, which `storage` opens; so one and the same
discovery groups files on a disk and objects in a bucket.

    s3://bucket/p1/ct/000.dcm      tree.url "s3://bucket", key "p1/ct/000.dcm"
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from typing_extensions import Buffer, override

from unet_batch.side_by_side import each

HEAD_BYTES = 2**14
"""What is fetched first of an object: it holds what tells DICOM series apart."""

MAX_AHEAD_BYTES = 2**22
"""What is fetched at once of an object that is read on and on; grows to this from HEAD_BYTES."""


class RemoteFacts(NamedTuple):
    """Bytes of an object, and what changes when it is written anew."""

    size: int
    version: str


@dataclass(frozen=True, slots=True)
class Entries:
    """What lies directly in a folder: names of folders, objects by name; and what is odd there."""

    folders: tuple[str, ...] = ()
    files: Mapping[str, RemoteFacts] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Tree(ABC):
    """Objects under slash-separated keys; each folder is listed once, as of a snapshot."""

    url: str

    @abstractmethod
    def entries(self, folder: str) -> Entries:
        """What lies in `folder` (`` is the top), sorted; nothing where there is no such folder."""

    @abstractmethod
    def listed(self, folder: str) -> Entries | None:
        """The same where it is known already, without a request."""

    @abstractmethod
    def notes(self, folder: str) -> tuple[str, ...]:
        """What was odd in those folders, at or below `folder`, that were listed."""

    @abstractmethod
    def read(self, key: str, start: int, stop: int, version: str) -> bytes:
        """Bytes `[start, stop)` of the object. Raises UnreadableScanError, naming it."""

    @abstractmethod
    def head(self, key: str, version: str) -> bytes:
        """The first HEAD_BYTES of the object, remembered for a while. Raises as `read`."""


@dataclass(frozen=True, slots=True, eq=False)
class RemotePath:
    """One object or folder of a Tree; methods are those of pathlib.Path of the same names."""

    tree: Tree = field(repr=False)
    key: str
    known: RemoteFacts | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[type[RemotePath], tuple[Tree, str, RemoteFacts | None]]:
        """With what is known of the object: a worker need not list its folder again."""
        listed = self.tree.listed(self._folder) if self.key else None
        facts = self.known or (listed.files.get(self.name) if listed else None)
        return RemotePath, (self.tree, self.key, facts)

    def __str__(self) -> str:
        return f"{self.tree.url}/{self.key}".rstrip("/")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: RemotePath) -> bool:
        return str(self) < str(other)

    def __truediv__(self, relative: str) -> RemotePath:
        return RemotePath(self.tree, f"{self.key}/{relative}".strip("/"))

    @property
    def name(self) -> str:
        """The last segment; `` of the bucket itself."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """From the last dot of the name on."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The folder above; the bucket is its own."""
        return RemotePath(self.tree, self._folder)

    @property
    def parents(self) -> Sequence[RemotePath]:
        """All folders above, the nearest first."""
        parts = self.key.split("/")[:-1]
        keys = ["/".join(parts[:n]) for n in range(len(parts), -1, -1)] if self.key else []
        return [RemotePath(self.tree, key) for key in keys]

    @property
    def facts(self) -> RemoteFacts:
        """Size and version of the object. Raises FileNotFoundError where there is none."""
        if self.known is not None:
            return self.known
        found = self.tree.entries(self._folder).files.get(self.name)
        if found is None:
            raise FileNotFoundError(f"no object at {self}")
        return found

    def resolve(self) -> RemotePath:
        """Itself: a bucket has no links."""
        return self

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def is_file(self) -> bool:
        """Whether it is an object."""
        return bool(self.key) and self.name in self.tree.entries(self._folder).files

    def is_dir(self) -> bool:
        """Whether objects lie below it."""
        above = self.tree.listed(self._folder) if self.key else None
        if above is not None:
            return self.name in above.folders
        found = self.tree.entries(self.key)
        return bool(found.folders or found.files or found.notes)

    def exists(self) -> bool:
        """Whether it is a folder or an object."""
        return self.is_dir() or self.is_file()

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly in the folder."""
        found = self.tree.entries(self.key)
        for name in (*found.folders, *found.files):
            yield RemotePath(self.tree, (self / name).key, found.files.get(name))

    def walk(self) -> Iterator[tuple[RemotePath, list[str], list[str]]]:
        """Folders, each with names of folders and files, as os.walk, but level by level.

        The caller may take folders out of the list; those of a level are listed many at once.
        """
        level = [self]
        while level:
            entries = each(self.tree.entries, [folder.key for folder in level])
            below = [
                (folder / name).key
                for folder, found in zip(level, entries, strict=True)
                for name in found.folders
            ]
            each(self.tree.entries, below)
            deeper: list[RemotePath] = []
            for folder, found in zip(level, entries, strict=True):
                subfolders = list(found.folders)
                yield folder, subfolders, list(found.files)
                deeper += [folder / name for name in subfolders]
            level = deeper

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What below the folder matches `pattern`; `**` stands for any number of folders."""
        return _matches(self, PurePosixPath(pattern).parts)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """A stream over the object that fetches what is read. Raises UnreadableScanError."""
        if mode != "rb":
            raise ValueError(f"{self}: an object of a bucket opens with 'rb', not {mode!r}")
        return io.BufferedReader(_Stream(self), HEAD_BYTES)

    @property
    def _folder(self) -> str:
        return self.key.rpartition("/")[0]


AnyPath = Path | RemotePath
"""Where a file lies: on a disk, or in a bucket."""

Locate = Callable[[str], AnyPath]
"""An address to the path of a disk or bucket."""


def below(path: AnyPath, root: AnyPath) -> PurePosixPath | None:
    """The path from `root` on (`.` where they are one); None where it does not lie there."""
    if isinstance(path, Path) and isinstance(root, Path):
        is_inside = path.is_relative_to(root)
        return PurePosixPath(path.relative_to(root).as_posix()) if is_inside else None
    inside = f"{root}/"
    if not f"{path}/".startswith(inside):
        return None
    return PurePosixPath(str(path)[len(inside) :] or ".")


def on_disk(place: str) -> AnyPath:
    """The absolute path of a place on disk."""
    return Path(place).expanduser().resolve()


def _matches(folder: RemotePath, parts: Sequence[str]) -> Iterator[RemotePath]:
    first, rest = parts[0], parts[1:]
    if first == "**":
        yield from _matches(folder, rest) if rest else [folder]
        for name in folder.tree.entries(folder.key).folders:
            yield from _matches(folder / name, parts)
        return
    for child in folder.iterdir():
        if fnmatchcase(child.name, first):
            if not rest:
                yield child
            elif child.is_dir():
                yield from _matches(child, rest)


class _Stream(io.RawIOBase):
    """An object as a raw stream: what is read on and on is fetched in ever larger pieces."""

    def __init__(self, path: RemotePath) -> None:
        self._path, self._facts = path, path.facts
        self._at, self._start, self._piece = 0, 0, b""
        self._ahead = HEAD_BYTES

    @property
    def name(self) -> str:
        """What readers call the file."""
        return str(self._path)

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._facts.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    @override
    def tell(self) -> int:
        return self._at

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if not self._start <= self._at < self._start + len(self._piece):
            self._fetch(len(view))
        found = self._piece[self._at - self._start :][: len(view)]
        view[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _fetch(self, wanted: int) -> None:
        goes_on = self._piece and self._at == self._start + len(self._piece)
        self._ahead = min(4 * self._ahead, MAX_AHEAD_BYTES) if goes_on else HEAD_BYTES
        size, version = self._facts
        stop = min(size, self._at + max(wanted, self._ahead))
        tree, key = self._path.tree, self._path.key
        if self._at >= size:
            piece = b""
        elif self._at < HEAD_BYTES:
            piece = tree.head(key, version)[self._at :]
        else:
            piece = tree.read(key, self._at, stop, version)
        self._start, self._piece = self._at, piece
