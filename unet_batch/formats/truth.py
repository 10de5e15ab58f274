"""Which mask belongs to which scan: by the scan's name in a folder of masks, or by a pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from unet_batch.errors import SpecError, UnreadableScanError
from unet_batch.formats.dicom_file import Place
from unet_batch.formats.kinds import FILE_SUFFIXES
from unet_batch.formats.masks import is_object_folder
from unet_batch.formats.ngff import is_zarr
from unet_batch.formats.remote import AnyPath, Locate, below
from unet_batch.formats.zips import ZipMember, list_zip

_ZIP = ".zip"


@dataclass(frozen=True, slots=True)
class MaskOwner:
    """What patterns of masks refer to in a scan, and the zips that it lies in."""

    folder: str
    stem: str
    name: str
    zips: frozenset[AnyPath] = frozenset()


def mask_folders(truth: Mapping[str, str], locate: Locate) -> frozenset[AnyPath]:
    """The folders of masks in `truth`. Raises SpecError for one that is no folder."""
    folders = {place: locate(place) for place in truth.values() if not _is_pattern(place)}
    for place, folder in folders.items():
        if not folder.is_dir():
            raise SpecError(
                f"truth {place!r}: expected a folder of masks, or a pattern with {{stem}}"
            )
    return frozenset(folders.values())


def find_mask(owner: MaskOwner, place: str, locate: Locate) -> Place | None:
    """The mask of a scan at `place` (a folder, a pattern, a member of a zip); None for none.

    Raises SpecError for a pattern that cannot be filled in.
    """
    if _is_pattern(place):
        return _fill_in(owner, place, locate)
    root = locate(place)
    for relative in (f"{owner.folder}/{owner.stem}", owner.stem, owner.name):
        for suffix in (*FILE_SUFFIXES, ".ome.zarr", ".zarr", ""):
            path = (root / f"{relative.lstrip('/')}{suffix}").resolve()
            found = path.is_file() if suffix else is_object_folder(path)
            if below(path, root) is not None and (found or is_zarr(path)):
                return path
    return None


def _fill_in(owner: MaskOwner, place: str, locate: Locate) -> Place | None:
    try:
        filled = place.format(folder=owner.folder, stem=owner.stem, name=owner.name)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise SpecError(f"truth {place!r}: known are {{folder}}, {{stem}}, {{name}}") from error
    archive, is_member, member = filled.partition(f"{_ZIP}!")
    if not is_member:
        return _only_match(filled, locate)
    packed = locate(f"{archive}{_ZIP}")
    return _find_member(packed, member) if "{" in place or packed in owner.zips else None


def _only_match(filled: str, locate: Locate) -> AnyPath | None:
    """What lies at `filled`, whose last part may hold `*` and `?`; None for nothing."""
    path = locate(filled)
    if path.exists() or not set("*?") & set(path.name):
        return path if path.exists() else None
    folder, pattern = path.parent, path.name.replace("[", "[[]")
    names = folder.iterdir() if folder.is_dir() else ()
    matches = sorted(one.name for one in names if fnmatchcase(one.name, pattern))
    if len(matches) > 1:
        raise SpecError(
            f"truth {filled!r} matches {len(matches)} files of one scan: {', '.join(matches[:5])};"
            " a pattern must name one"
        )
    return folder / matches[0] if matches else None


def _is_pattern(place: str) -> bool:
    """Whether `place` is one path to be filled in, rather than a folder of masks."""
    return "{" in place or f"{_ZIP}!" in place


def _find_member(archive: AnyPath, member: str) -> ZipMember | None:
    """The member of that name; None where the zip, or the member in it, is missing."""
    if not archive.is_file():
        return None
    try:
        members, _ = list_zip(archive)
    except UnreadableScanError:
        return None
    return next((found for found in members if found.member == member), None)
