"""What there is to ingest: files, folders and patterns to a list of ScanSources, nothing read yet.

    sources:  data/                 Volume ids
                a.nii.gz            a
                p1/T1.nii.gz        p1_T1
                p1/ct/000.dcm ...   p1_ct         one series in the folder
                p2/000.dcm ...      p2_1, p2_2    several, by SeriesNumber

What a file is, its content says (DICOM) or its suffix promises (NIfTI); a promise that is
not kept becomes a named error when the ScanSource is read.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np

from unet_batch.errors import GeometryError, SpecError
from unet_batch.formats.dicom import is_dicom, read_dicom_series, sort_into_series
from unet_batch.formats.geometry import onto_grid
from unet_batch.formats.nifti import SUFFIXES, read_nifti, read_nifti_mask, stem_of
from unet_batch.formats.scan import Mask, Scan
from unet_batch.formats.walk import Walk

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_MAX_NAME_LENGTH = 128
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class ScanSource:
    """One scan to be: its Volume id, its files, and its truth masks by Labels name.

    `folder` (relative to the source, posix) and `stem` (file name without suffix, or the name
    of the series' folder) are what patterns of truth masks refer to. `channels` names one
    channel a file where several files are the channels of one Volume.
    """

    name: str
    kind: Literal["nifti", "dicom"]
    paths: tuple[Path, ...]
    folder: str
    stem: str
    channels: tuple[str, ...] = ()
    truth: Mapping[str, Path] = field(default_factory=dict)

    def read(self) -> Scan:
        """The Scan. Raises ScanError (unreadable, geometry, voxels), naming the file."""
        if self.kind == "dicom":
            return read_dicom_series(self.paths, name=self.name)
        if not self.channels:
            return read_nifti(self.paths[0], name=self.name)
        return _stack_channels(self)

    def read_truth(
        self, scan: Scan, class_names: Mapping[str, Mapping[int, str]] | None = None
    ) -> dict[str, Mask]:
        """The truth masks by Labels name, on the grid of `scan`, which this source was read to.

        `class_names` has names of values for each Labels name. Raises ScanError, as `read`.
        """
        masks = {}
        shape = scan.voxels_czyx.shape
        for labels, path in self.truth.items():
            mask = read_nifti_mask(path, class_names=(class_names or {}).get(labels))
            try:
                masks[labels] = onto_grid(mask, scan.affine, (shape[1], shape[2], shape[3]))
            except GeometryError as error:
                raise GeometryError(f"{path} ({labels}): {error}") from error
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
) -> Discovery:
    """Every scan of `sources`, with its truth masks.

    Parameters
    ----------
    sources: files, folders (walked recursively), or patterns such as `data/*/CT.nii.gz`.
    truth: Labels name to a folder that holds masks named as their scans (`<folder>/<stem>` or
        `<stem>`, `.nii` or `.nii.gz`), or to a pattern with `{folder}`, `{stem}` or `{name}`.
        Files that serve as masks are not scans.
    channels: channel name to a file name pattern; then each folder is one Volume, of the files
        that match, in this order.
    exclude: file name patterns to leave out.

    Raises
    ------
    SpecError: a source that does not exist or holds no scan, two scans of one name, truth that
        fits no scan.
    """
    truth, channels = truth or {}, channels or {}
    walk = Walk(tuple(exclude), _mask_folders(truth))
    found = [_scans_of(source, walk, channels) for source in sources]
    with_truth = _with_truth([scan for part in found for scan in part.scans], truth)
    masks = {path for scan in with_truth for path in scan.truth.values()}
    scans = [scan for scan in with_truth if not masks.intersection(scan.paths)]
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


@dataclass(frozen=True, slots=True)
class _Found:
    """Scans of one folder, and notes on its other files."""

    scans: tuple[ScanSource, ...] = ()
    notes: tuple[str, ...] = ()


def _scans_of(source: str | Path, walk: Walk, channels: Mapping[str, str]) -> _Found:
    found = walk.find(source)
    by_folder: dict[Path, list[Path]] = {}
    for path in found.files:
        by_folder.setdefault(path.parent, []).append(path)
    parts = [
        _channel_scan(found.root, folder, files, channels)
        if channels
        else _folder_scans(found.root, folder, files)
        for folder, files in by_folder.items()
    ]
    scans = tuple(scan for part in parts for scan in part.scans)
    notes = (*found.notes, *(note for part in parts for note in part.notes))
    if not scans:
        seen = "".join(f"\n  {note}" for note in notes[:5])
        raise SpecError(
            f"no scan in {str(source)!r}: expected .nii, .nii.gz or DICOM files"
            + (f" for the channels {dict(channels)}" if channels else "")
            + seen
        )
    return _Found(scans, notes)


def _folder_scans(root: Path, folder: Path, files: Sequence[Path]) -> _Found:
    images = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    scans = [_named(root, folder, stem_of(path), "nifti", (path,)) for path in images]
    rest = [path for path in files if path not in images]
    dicom = [p for p in rest if is_dicom(p) or p.suffix.lower() in _DICOM_SUFFIXES]
    sorted_files = sort_into_series(dicom)
    several = len(sorted_files.series) > 1
    for number, paths in enumerate(sorted_files.series, start=1):
        stem = f"{folder.name}_{number}" if several else folder.name
        scans.append(_named(root, _parent_in(root, folder), stem, "dicom", paths))
    notes = sorted_files.notes
    if others := len(rest) - len(dicom):
        notes = (*notes, f"{folder}: skipped {others} files that are neither NIfTI nor DICOM")
    return _Found(tuple(scans), notes)


def _channel_scan(
    root: Path, folder: Path, files: Sequence[Path], channels: Mapping[str, str]
) -> _Found:
    chosen = {name: _only_match(folder, files, name, p) for name, p in channels.items()}
    present = tuple(path for path in chosen.values() if path is not None)
    if len(present) == len(channels):
        scan = _named(root, _parent_in(root, folder), folder.name, "nifti", present)
        return _Found((replace(scan, channels=tuple(channels)),))
    lacking = ", ".join(name for name, path in chosen.items() if path is None)
    return _Found(notes=(f"{folder}: skipped, no file for channel {lacking}",) if present else ())


def _parent_in(root: Path, folder: Path) -> Path:
    """The folder above, but never above `root`: the source itself keeps its own name."""
    return folder if folder == root else folder.parent


def _named(
    root: Path, folder: Path, stem: str, kind: Literal["nifti", "dicom"], paths: tuple[Path, ...]
) -> ScanSource:
    relative = folder.relative_to(root).as_posix()
    relative = "" if relative == "." else relative
    return ScanSource(safe_name(f"{relative}/{stem}"), kind, paths, relative, stem)


def _only_match(folder: Path, files: Sequence[Path], channel: str, pattern: str) -> Path | None:
    matches = [path for path in files if fnmatchcase(path.name, pattern)]
    if len(matches) > 1:
        names = ", ".join(path.name for path in matches)
        raise SpecError(
            f"channel {channel}: {pattern!r} matches several files of {folder}: {names}"
        )
    return matches[0] if matches else None


def _stack_channels(source: ScanSource) -> Scan:
    """One Scan of all files of `source`; each must be 3-D and on the first one's grid."""
    scans = [read_nifti(path, name=source.name) for path in source.paths]
    first = scans[0]
    for path, scan in zip(source.paths, scans, strict=True):
        same = np.allclose(scan.affine, first.affine, rtol=0, atol=1e-3)
        if scan.voxels_czyx.shape != (1, *first.voxels_czyx.shape[1:]) or not same:
            raise GeometryError(
                f"{path}: channels of one Volume share one grid; expected 1 channel of "
                f"{first.voxels_czyx.shape[1:]} voxels with affine\n{first.affine}\n"
                f"got {scan.voxels_czyx.shape} with affine\n{scan.affine}"
            )
    voxels = np.concatenate([scan.voxels_czyx for scan in scans])
    odd = tuple(dict.fromkeys(w for scan in scans for w in scan.warnings))
    return replace(first, voxels_czyx=voxels, channels=source.channels, warnings=odd)


def _mask_folders(truth: Mapping[str, str]) -> frozenset[Path]:
    plain = [place for place in truth.values() if "{" not in place]
    for place in plain:
        if not Path(place).expanduser().is_dir():
            raise SpecError(
                f"truth {place!r}: expected a folder of masks, or a pattern with {{stem}}"
            )
    return frozenset(Path(place).expanduser().resolve() for place in plain)


def _with_truth(scans: list[ScanSource], truth: Mapping[str, str]) -> list[ScanSource]:
    masks: dict[str, dict[str, Path]] = {scan.name: {} for scan in scans}
    for labels, place in truth.items():
        owners: dict[Path, str] = {}
        for scan in scans:
            path = _find_mask(scan, place)
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


def _find_mask(scan: ScanSource, place: str) -> Path | None:
    if "{" in place:
        try:
            filled = place.format(folder=scan.folder, stem=scan.stem, name=scan.name)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise SpecError(f"truth {place!r}: known are {{folder}}, {{stem}}, {{name}}") from error
        path = Path(filled).expanduser().resolve()
        return path if path.is_file() else None
    root = Path(place).expanduser().resolve()
    for relative in (f"{scan.folder}/{scan.stem}", scan.stem, scan.name):
        for suffix in (".nii.gz", ".nii"):
            path = (root / f"{relative.lstrip('/')}{suffix}").resolve()
            if path.is_file() and path.is_relative_to(root):
                return path
    return None


def _refuse_clashes(scans: list[ScanSource]) -> None:
    clashes = [name for name, count in Counter(scan.name for scan in scans).items() if count > 1]
    if clashes:
        paths = "\n".join(f"  {s.name}: {s.paths[0]}" for s in scans if s.name in clashes[:5])
        raise SpecError(
            f"{len(clashes)} Volume ids would be given twice:\n{paths}\n"
            "name their common folder, or a quoted pattern, as one source: ids then hold folders"
        )
