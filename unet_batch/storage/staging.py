"""Staging: the objects of one scan in a bucket, as files of this machine while it is read.

Most readers want files. So a worker fetches what one scan needs, and no more, into a folder of
its own, and removes it as soon as the scan has been read:

    TMPDIR/unet-batch-staging-<random>/     mode 0700: scans hold patients' data
        lock                                held while the folder is in use
        0/000.dcm                           by number of the folder in the bucket, then by name

Of an object's key only the last segment becomes part of a path. A worker that is killed leaves
its folder behind, unlocked: whoever stages next on that machine, or ends an ingest there,
removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from unet_batch.errors import UnreadableScanError
from unet_batch.formats.dicom_file import Place
from unet_batch.formats.discovery import ScanSource
from unet_batch.formats.itk import MAX_HEADER, data_file_name
from unet_batch.formats.kinds import kind_of
from unet_batch.formats.remote import RemotePath, below
from unet_batch.formats.zips import ZipMember, spans_of
from unet_batch.side_by_side import each

_PREFIX, _UNFINISHED = "unet-batch-staging-", "unet-batch-new-"
_PIECE_BYTES = 2**23
_MAX_NAME_BYTES = 255

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Staged:
    """A ScanSource whose files lie on this machine, and what their addresses are."""

    source: ScanSource
    addresses: Mapping[str, str] = field(default_factory=dict)

    def told(self, text: str) -> str:
        """`text` with the addresses of files in the place of where they were staged."""
        for local in sorted(self.addresses, key=len, reverse=True):
            text = text.replace(local, self.addresses[local])
        return text


@contextmanager
def staged(source: ScanSource, *, max_bytes: int) -> Iterator[Staged]:
    """`source` with its files here; those that lie in a bucket for as long as the context lasts.

    An OME-Zarr image that is a scan of its own stays where it is.

    Raises
    ------
    UnreadableScanError: more than `max_bytes`, or than the disk has room for, which is told
        before anything is fetched; an object that is gone, changed or forbidden.
    """
    needed = _needed(source)
    if not needed:
        yield Staged(source)
        return
    _check_room(source, sum(one.num_bytes for one in needed), max_bytes)
    sweep()
    with _own_folder() as folder:
        roots = _places([one.root for one in needed], folder)
        each(_fetch, [_Order(one, _place_of(roots[one.root], one)) for one in needed])
        addresses = {str(here.parent): str(root.parent) for root, here in roots.items()}
        addresses |= {str(here): str(root) for root, here in roots.items()}
        yield Staged(_here(source, roots), addresses)


def sweep() -> None:
    """Remove what workers of this machine staged that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / "lock", os.O_RDWR)
        except OSError:
            continue  # of another user, or just removed by another worker
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # in use
        finally:
            os.close(lock)


@dataclass(frozen=True, slots=True)
class _Needed:
    """An object, or the `spans` of a zip that are worth fetching.

    `root` is what names it in the scan: the object, or the folder that is read as a whole.
    """

    path: RemotePath
    root: RemotePath
    spans: tuple[Span, ...]

    @property
    def num_bytes(self) -> int:
        """What is fetched."""
        return sum(stop - start for start, stop in self.spans)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is fetched, and whereto."""

    needed: _Needed
    place: Path


def _needed(source: ScanSource) -> list[_Needed]:
    """All that must be fetched to read `source`, and its masks."""
    own = () if source.image is not None else source.paths
    places = (*own, *source.truth.values())
    roots = dict.fromkeys(place for place in places if isinstance(place, RemotePath))
    whole = {one.path: one for root in roots for one in _of_root(root)}
    members: dict[RemotePath, list[ZipMember]] = {}
    for place in places:
        if isinstance(place, ZipMember) and isinstance(place.archive, RemotePath):
            members.setdefault(place.archive, []).append(place)
    zips = [
        _Needed(archive, archive, spans_of(packed, _size_of(archive)))
        for archive, packed in members.items()
    ]
    return [*whole.values(), *zips]


def _of_root(root: RemotePath) -> Iterator[_Needed]:
    """The object itself, with the data file that it names as a header; all below a folder."""
    if root.known is None and not root.is_file() and root.is_dir():
        for folder, _, names in root.walk():
            for name in names:
                yield _Needed(folder / name, root, ((0, _size_of(folder / name)),))
        return
    yield _Needed(root, root, ((0, _size_of(root)),))
    if kind_of(PurePosixPath(root.name)) == "itk":
        with root.open() as stream:
            named = data_file_name(PurePosixPath(root.name), stream.read(MAX_HEADER))
        data = root.parent / named
        if named and PurePosixPath(named).name == named and data.is_file():
            yield _Needed(data, data, ((0, _size_of(data)),))


def _size_of(path: RemotePath) -> int:
    try:
        return path.facts.size
    except FileNotFoundError as error:
        raise UnreadableScanError(f"{path}: gone since it was found") from error


def _check_room(source: ScanSource, num_bytes: int, max_bytes: int) -> None:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    where = next(iter((*source.paths, *source.truth.values())), source.name)
    if num_bytes > max_bytes:
        raise UnreadableScanError(
            f"{where}: this scan is {num_bytes} bytes of objects, `staging` allows {max_bytes}; "
            "raise it, if the machines have such disks"
        )
    if num_bytes > free:
        raise UnreadableScanError(
            f"{where}: this scan is {num_bytes} bytes of objects, {folder} has {free} bytes free; "
            "set TMPDIR to a larger disk"
        )


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A new folder that is locked by this process, and removed at the end."""
    new = Path(tempfile.mkdtemp(prefix=_UNFINISHED))
    lock = os.open(new / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    folder = new.with_name(new.name.replace(_UNFINISHED, _PREFIX, 1))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(folder)  # from here on others see it, and that it is locked
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)
        os.close(lock)


def _places(roots: Iterable[RemotePath], folder: Path) -> dict[RemotePath, Path]:
    """Where each root goes: files of one folder stay together, under their own names."""
    numbers: dict[tuple[str, bool], int] = {}
    places = {}
    for root in dict.fromkeys(roots):
        is_object = root.known is not None or root.is_file()  # a folder may have its name too
        number = numbers.setdefault((str(root.parent), is_object), len(numbers))
        places[root] = folder / str(number) / _file_name(root.name)
    return places


def _place_of(place: Path, needed: _Needed) -> Path:
    """Where an object goes whose root goes to `place`."""
    inside = below(needed.path, needed.root) or PurePosixPath()
    return place.joinpath(*(_file_name(part) for part in inside.parts))


def _file_name(name: str) -> str:
    """`name` where a file system takes it; else a digest with its last characters."""
    is_fine = name not in ("", ".", "..") and not set(name) & {"/", "\0"}
    if is_fine and len(os.fsencode(name)) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=8).hexdigest()
    return f"{digest}_{''.join(c for c in name[-40:] if c.isalnum() or c in '._-')}"


def _fetch(order: _Order) -> None:
    """Write the object, or the spans that are needed of it, where it goes."""
    path, place = order.needed.path, order.place
    place.parent.mkdir(parents=True, exist_ok=True)
    size, version = path.facts
    with place.open("xb") as file:
        for start, stop in order.needed.spans:
            file.seek(start)
            for at in range(start, stop, _PIECE_BYTES):
                piece = path.tree.read(path.key, at, min(at + _PIECE_BYTES, stop), version)
                file.write(piece)
        file.truncate(size)


def _here(source: ScanSource, local: Mapping[RemotePath, Path]) -> ScanSource:
    """`source` with the paths that were staged."""
    return replace(
        source,
        paths=tuple(_moved(place, local) for place in source.paths),
        truth={labels: _moved(place, local) for labels, place in source.truth.items()},
    )


def _moved(place: Place, local: Mapping[RemotePath, Path]) -> Place:
    if isinstance(place, ZipMember):
        archive = place.archive
        here = local.get(archive) if isinstance(archive, RemotePath) else None
        return replace(place, archive=here or archive)
    return local.get(place, place) if isinstance(place, RemotePath) else place
