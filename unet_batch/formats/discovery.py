"""What there is to ingest: files, folders and patterns to a list of ScanSources, nothing read yet.

    sources:  data/                 Volume ids
                a.nii.gz            a
                p1/T1.nrrd          p1_T1
                p1/ct/000.dcm ...   p1_ct         one series in the folder
                p2/000.dcm ...      p2_1, p2_2    several, by SeriesNumber
                b.zip               b, b_x_ct     series in folders of a zip, as of a folder
                c.ome.zarr/         c
                slides/1.png ...    slides_1      where a folder holds nothing but pictures

Objects in a bucket are found as files are. What a file is, its content says (DICOM, Zarr) or
its suffix promises; a promise that is not kept becomes a named error when the ScanSource is read.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from unet_batch.errors import GeometryError, SpecError, UnreadableScanError
from unet_batch.formats.dicom import read_dicom_series, sort_into_series
from unet_batch.formats.dicom_file import Place, is_dicom, is_remote
from unet_batch.formats.geometry import onto_grid
from unet_batch.formats.kinds import FILE_SUFFIXES, Kind, kind_of, stem_of
from unet_batch.formats.labels import MaskRules
from unet_batch.formats.masks import read_masks
from unet_batch.formats.readers import ReadOptions, read_channels, read_image, read_stack
from unet_batch.formats.remote import AnyPath, Locate, RemotePath, below, on_disk
from unet_batch.formats.scan import Mask, Scan
from unet_batch.formats.truth import MaskOwner, find_mask, mask_folders
from unet_batch.formats.walk import Walk
from unet_batch.formats.zips import ZipMember, list_zip
from unet_batch.side_by_side import each

_MAX_NAME_LENGTH = 128
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_ZIP = ".zip"


@dataclass(frozen=True, slots=True)
class ScanSource:
    """One scan to be: its Volume id, its files, and its truth masks by Labels name.

    `folder` (relative to the source, posix) and `stem` (file name without suffix, or the name
    of the series' folder) are what patterns of truth masks refer to. `channels` names one
    channel a file where several files are the channels of one Volume.
    """

    name: str
    kind: Kind | Literal["zip"]
    paths: tuple[Place, ...]
    folder: str
    stem: str
    channels: tuple[str, ...] = ()
    truth: Mapping[str, Place] = field(default_factory=dict)
    options: ReadOptions = field(default_factory=ReadOptions)

    @property
    def image(self) -> Path | str | None:
        """The one OME-Zarr image that is this scan; None where it is of other files."""
        if self.kind != "ome-zarr" or self.channels or len(self.paths) > 1:
            return None
        place = self.paths[0]
        return place if isinstance(place, Path) else str(place)

    def read(self) -> Scan:
        """The Scan. Raises ScanError (unreadable, geometry, voxels), naming the file."""
        if self.kind == "dicom":
            tilt = self.options.resample_tilt
            return read_dicom_series(self.paths, name=self.name, resample_tilt=tilt)
        files = [path for path in self.paths if isinstance(path, Path)]
        if self.kind == "zip":
            list_zip(files[0])
            raise UnreadableScanError(f"{files[0]}: was damaged when it was found; ingest again")
        if self.channels:
            return read_channels(files, self.channels, self.options, name=self.name)
        if len(files) > 1:
            return read_stack(files, self.options, name=self.name)
        return read_image(files[0], self.options, name=self.name)

    def read_truth(
        self, scan: Scan, class_names: Mapping[str, Mapping[int, str]] | None = None
    ) -> dict[str, Mask]:
        """The truth masks by Labels name, on the grid of `scan`, which this source was read to.

        `class_names` has names of values for each Labels name. Raises ScanError, as `read`.
        """
        masks: dict[str, Mask] = {}
        _, z, y, x = scan.voxels_czyx.shape
        for labels, place in self.truth.items():
            rules = self.options.masks.get(labels, MaskRules())
            if names := (class_names or {}).get(labels):
                rules = replace(rules, class_names=names)
            for name, mask in read_masks(place, scan, labels, rules).items():
                try:
                    masks[name] = onto_grid(mask, scan.affine, (z, y, x))
                except GeometryError as error:
                    raise GeometryError(f"{place} ({name}): {error}") from error
        return masks


@dataclass(frozen=True, slots=True)
class Discovery:
    """The scans found, sorted by name, and notes on what was left out and why."""

    scans: tuple[ScanSource, ...]
    notes: tuple[str, ...]


def discover(
    sources: Iterable[str | Path],
    *,
    truth: Mapping[str, str] | None = None,
    channels: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    options: ReadOptions | None = None,
    locate: Locate = on_disk,
) -> Discovery:
    """Every scan of `sources`, with its truth masks.

    Parameters
    ----------
    sources: files, folders (walked recursively), or patterns such as `data/*/CT.nii.gz`.
    truth: Labels name to a folder that holds masks named as their scans (`<folder>/<stem>` or
        `<stem>` and a suffix), or to a pattern with `{folder}`, `{stem}` or `{name}`; it may
        name a folder of one mask an object, or a member of a zip (`a.zip!x/RS.dcm`), which
        without placeholders belongs to the scans in that zip alone.
        Files that serve as masks are not scans.
    channels: channel name to a file name pattern; then each folder is one Volume, of the files
        that match, in this order.
    exclude: file name patterns to leave out.
    options: how files are read, carried along by each ScanSource.
    locate: makes paths of addresses; by default of places on disk alone.

    Raises
    ------
    SpecError: a source that does not exist or holds no scan, two scans of one name, truth that
        fits no scan.
    """
    truth, channels, options = truth or {}, channels or {}, options or ReadOptions()
    walk = Walk(tuple(exclude), mask_folders(truth, locate), locate)
    found = [_scans_of(source, walk, channels, options) for source in sources]
    with_truth = _with_truth([scan for part in found for scan in part.scans], truth, locate)
    masks = {place for scan in with_truth for place in scan.truth.values()}
    scans = [scan for scan in with_truth if not masks.intersection(_files_and_folders(scan))]
    scans = [replace(scan, options=options) for scan in scans]
    _refuse_clashes(scans)
    notes = tuple(note for part in found for note in part.notes)
    return Discovery(tuple(sorted(scans, key=lambda scan: scan.name)), notes)


def safe_name(relative: str) -> str:
    """`relative` (a posix path) as one path segment: `_` for separators and unusual characters.

    Of more than 128 characters, which an Archive does not take, a digest and the end are left.

    >>> safe_name("patient 1/CT")
    'patient_1_CT'
    """
    name = re.sub(r"\.{2,}", ".", _UNSAFE.sub("_", relative)).strip("._-") or "scan"
    if len(name) <= _MAX_NAME_LENGTH:
        return name
    digest = hashlib.blake2b(relative.encode(), digest_size=4).hexdigest()
    return f"{digest}_{name[len(digest) + 1 - _MAX_NAME_LENGTH :]}"


AnyPlace = TypeVar("AnyPlace", AnyPath, ZipMember)


@dataclass(frozen=True, slots=True)
class _Found:
    """Scans of one folder, and notes on its other files."""

    scans: tuple[ScanSource, ...] = ()
    notes: tuple[str, ...] = ()


def _files_and_folders(scan: ScanSource) -> set[Place]:
    return {p for path in scan.paths for p in (path, path.parent, *path.parent.parents)}


def _scans_of(
    source: str | Path, walk: Walk, channels: Mapping[str, str], options: ReadOptions
) -> _Found:
    found = walk.find(source)

    def look(item: tuple[AnyPath, list[AnyPath]]) -> _Found:
        folder, files = item
        if channels:
            return _channel_scan(found.root, folder, files, channels)
        return _folder_scans(found.root, folder, files, options)

    folders = _by_folder(found.files).items()
    parts = each(look, folders, at_once=isinstance(found.root, RemotePath))
    scans = tuple(scan for part in parts for scan in part.scans)
    notes = (*found.notes, *(note for part in parts for note in part.notes))
    if not scans:
        seen = "".join(f"\n  {note}" for note in notes[:5])
        raise SpecError(
            f"no scan in {str(source)!r}: expected DICOM (also in .zip), OME-Zarr, "
            + ", ".join(FILE_SUFFIXES)
            + (f" for the channels {dict(channels)}" if channels else "")
            + seen
        )
    return _Found(scans, notes)


def _by_folder(files: Iterable[AnyPlace]) -> dict[AnyPath, list[AnyPlace]]:
    folders: dict[AnyPath, list[AnyPlace]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    return folders


def _folder_scans(
    root: AnyPath, folder: AnyPath, files: Sequence[AnyPath], options: ReadOptions
) -> _Found:
    """The scans that lie in one folder: files by suffix, DICOM by content, zips by theirs."""
    zips = [path for path in files if path.suffix.lower() == _ZIP]
    images = [path for path in files if kind_of(path) not in {None, "dicom"} or path.is_dir()]
    rest = [path for path in files if path not in images and path not in zips]
    series = _series_scans(root, folder, rest)
    in_zips = [_zip_scans(root, path) for path in zips]
    pictures = [path for path in images if kind_of(path) == "picture"]
    notes = (*series.notes, *(note for part in in_zips for note in part.notes))
    scans = [*series.scans, *(scan for part in in_zips for scan in part.scans)]
    if pictures and (scans or len(pictures) < len(images)):
        images = [path for path in images if path not in pictures]
        notes = (*notes, f"{folder}: skipped {len(pictures)} pictures beside scans")
    if options.stack_pictures and len(images) > 1:
        kind = kind_of(images[0]) or "picture"
        parent = _parent_in(root, folder)
        scans.append(_named(root, parent, folder.name, kind, tuple(images)))
    else:
        scans += [_file_scan(root, folder, path) for path in images]
    return _Found(tuple(scans), notes)


def _file_scan(root: AnyPath, folder: AnyPath, path: AnyPath) -> ScanSource:
    kind = "ome-zarr" if path.is_dir() else kind_of(path)
    return _named(root, folder, stem_of(path), kind or "picture", (path,))


def _series_scans(root: AnyPath, folder: AnyPath, files: Sequence[Place]) -> _Found:
    """The DICOM series of one folder, of a disk or of a zip."""
    found = each(_may_be_dicom, files, at_once=any(map(is_remote, files)))
    dicom = [path for path, is_so in zip(files, found, strict=True) if is_so]
    sorted_files = sort_into_series(dicom)
    several = len(sorted_files.series) > 1
    scans = []
    for number, paths in enumerate(sorted_files.series, start=1):
        stem = f"{folder.name}_{number}" if several else folder.name
        scans.append(_named(root, _parent_in(root, folder), stem, "dicom", paths))
    notes = sorted_files.notes
    if others := len(files) - len(dicom):
        notes = (*notes, f"{folder}: skipped {others} files of no known kind")
    return _Found(tuple(scans), notes)


def _may_be_dicom(place: Place) -> bool:
    return kind_of(place) == "dicom" or is_dicom(place)


def _zip_scans(root: AnyPath, path: AnyPath) -> _Found:
    """The DICOM series in a zip, named as if it were a folder without the suffix."""
    try:
        members, notes = list_zip(path)
    except UnreadableScanError:
        return _Found((_named(root, path.parent, path.stem, "zip", (path,)),))
    parts = [_series_scans(root, folder, files) for folder, files in _by_folder(members).items()]
    scans = tuple(_out_of_zip(scan) for part in parts for scan in part.scans)
    notes = (*notes, *(note for part in parts for note in part.notes))
    return _Found(scans, notes if scans or notes else (f"{path}: skipped, an empty zip",))


def _out_of_zip(scan: ScanSource) -> ScanSource:
    """`scan` with ids that hold the zip's name without its suffix."""
    folder = re.sub(r"\.zip(?=/|$)", "", scan.folder, flags=re.IGNORECASE)
    stem = re.sub(r"\.zip(?=$|_\d+$)", "", scan.stem, flags=re.IGNORECASE)
    return replace(scan, name=safe_name(f"{folder}/{stem}"), folder=folder, stem=stem)


def _channel_scan(
    root: AnyPath, folder: AnyPath, files: Sequence[AnyPath], channels: Mapping[str, str]
) -> _Found:
    chosen = {name: _only_match(folder, files, name, p) for name, p in channels.items()}
    present = tuple(path for path in chosen.values() if path is not None)
    if len(present) == len(channels):
        kind = kind_of(present[0]) or "dicom"
        scan = _named(root, _parent_in(root, folder), folder.name, kind, present)
        return _Found((replace(scan, kind=kind, channels=tuple(channels)),))
    lacking = ", ".join(name for name, path in chosen.items() if path is None)
    return _Found(notes=(f"{folder}: skipped, no file for channel {lacking}",) if present else ())


def _parent_in(root: AnyPath, folder: AnyPath) -> AnyPath:
    """The folder above, but never above `root`: the source itself keeps its own name."""
    return folder if folder == root else folder.parent


def _named(
    root: AnyPath, folder: AnyPath, stem: str, kind: Kind | Literal["zip"], paths: tuple[Place, ...]
) -> ScanSource:
    inside = str(below(folder, root))
    relative = "" if inside == "." else inside
    return ScanSource(safe_name(f"{relative}/{stem}"), kind, paths, relative, stem)


def _only_match(
    folder: AnyPath, files: Sequence[AnyPath], channel: str, pattern: str
) -> AnyPath | None:
    matches = [path for path in files if fnmatchcase(path.name, pattern)]
    if len(matches) > 1:
        names = ", ".join(path.name for path in matches)
        raise SpecError(
            f"channel {channel}: {pattern!r} matches several files of {folder}: {names}"
        )
    return matches[0] if matches else None


def _with_truth(
    scans: list[ScanSource], truth: Mapping[str, str], locate: Locate
) -> list[ScanSource]:
    masks: dict[str, dict[str, Place]] = {scan.name: {} for scan in scans}
    for labels, place in truth.items():
        owners: dict[Place, str] = {}
        found = each(partial(_mask_of, place=place, locate=locate), scans, at_once="://" in place)
        for scan, path in zip(scans, found, strict=True):
            if path is None or path in scan.paths:
                continue
            if owners.setdefault(path, scan.name) != scan.name:
                raise SpecError(
                    f"truth {labels}: {path} fits both {owners[path]} and {scan.name}; lay the "
                    "masks out in folders as the scans are, use {folder} and {stem} in a pattern, "
                    "or choose the scans by one (data/*/CT.nii.gz)"
                )
            masks[scan.name][labels] = path
        if not owners:
            raise SpecError(
                f"truth {labels}: no mask in {place!r} is named as one of the {len(scans)} scans "
                f"(the first has folder {scans[0].folder!r} and stem {scans[0].stem!r})"
            )
    return [replace(scan, truth=masks[scan.name]) for scan in scans]


def _mask_of(scan: ScanSource, *, place: str, locate: Locate) -> Place | None:
    zips = frozenset(one.archive for one in scan.paths if isinstance(one, ZipMember))
    return find_mask(MaskOwner(scan.folder, scan.stem, scan.name, zips), place, locate)


def _refuse_clashes(scans: list[ScanSource]) -> None:
    clashes = [name for name, count in Counter(scan.name for scan in scans).items() if count > 1]
    if clashes:
        paths = "\n".join(f"  {s.name}: {s.paths[0]}" for s in scans if s.name in clashes[:5])
        raise SpecError(
            f"{len(clashes)} Volume ids would be given twice:\n{paths}\n"
            "name their common folder, or a quoted pattern, as one source: ids then hold folders"
        )
