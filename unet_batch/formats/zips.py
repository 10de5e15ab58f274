"""Zip files of DICOM, read where they are: nothing is ever extracted to disk.

A ZipMember stands where a Path stands in the DICOM reader. It knows its place in the file
from discovery on, so a series of a thousand slices does not parse the directory a thousand
times. What a zip claims is bounded before memory is taken, and its checksum is verified.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unet_batch.errors import UnreadableScanError
from unet_batch.formats.remote import AnyPath

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 2**32
"""Of one member unpacked: an enhanced CT of 8000 slices; a classic slice has 0.5 MB."""

_MAX_PACKING = 1032  # zlib's technical notes: deflate cannot shrink further
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 6.3.10, section 4.3.7
_MAX_LOCAL_HEADER = _LOCAL_HEADER.size + 2 * 0xFFFF  # with name and extra field
_MIN_GAP_BYTES = 2**20  # fetched with what lies around it, rather than asked for twice
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True, order=True)
class ZipMember:
    """One file in a zip; where a Path would do, its `name`, `parent`, `suffix` and `open` do."""

    archive: AnyPath
    member: str
    header_offset: int
    packed_bytes: int
    num_bytes: int
    checksum: int
    is_deflated: bool

    def __str__(self) -> str:
        """The zip and the place in it."""
        return f"{self.archive}!{self.member}"

    @property
    def name(self) -> str:
        """The file name."""
        return PurePosixPath(self.member).name

    @property
    def parent(self) -> AnyPath:
        """The folder, as if the zip were one."""
        return (self.archive / self.member).parent

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The unpacked content. Raises UnreadableScanError where it is damaged."""
        if mode != "rb":
            raise ValueError(f"{self}: a member of a zip opens with 'rb', not {mode!r}")
        try:
            content = self._unpacked(self.num_bytes + 1, packed_bytes=self.packed_bytes)
        except (OSError, zlib.error, struct.error) as error:
            raise UnreadableScanError(f"{self}: {error}; copy the zip again") from error
        if len(content) != self.num_bytes or zlib.crc32(content) != self.checksum:
            raise UnreadableScanError(f"{self}: length or checksum is wrong; copy the zip again")
        return io.BytesIO(content)

    def head(self, num_bytes: int) -> bytes:
        """The first bytes, without a look at the rest; of a zip in a bucket little is fetched.

        Raises as `open`, but tells no checksum.
        """
        if isinstance(self.archive, Path):
            return self.open().read(num_bytes)
        try:
            return self._unpacked(min(num_bytes, self.num_bytes), packed_bytes=num_bytes)
        except (OSError, zlib.error, struct.error) as error:
            raise UnreadableScanError(f"{self}: {error}; copy the zip again") from error

    def _unpacked(self, num_bytes: int, *, packed_bytes: int) -> bytes:
        """At most `num_bytes` out of the first `packed_bytes`."""
        with self.archive.open("rb") as file:
            file.seek(self.header_offset)
            *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            file.seek(name_bytes + extra_bytes, io.SEEK_CUR)
            packed = file.read(min(packed_bytes, self.packed_bytes))
        if not self.is_deflated:
            return packed
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, num_bytes)


def spans_of(members: Sequence[ZipMember], num_bytes: int) -> tuple[tuple[int, int], ...]:
    """Where in a zip of `num_bytes` the `members` lie: byte ranges, sorted, near ones as one."""
    spans: list[tuple[int, int]] = []
    for one in sorted(members, key=lambda member: member.header_offset):
        stop = one.header_offset + _MAX_LOCAL_HEADER + one.packed_bytes
        start, stop = min(one.header_offset, num_bytes), min(stop, num_bytes)
        if spans and start - spans[-1][1] < _MIN_GAP_BYTES:
            spans[-1] = spans[-1][0], max(stop, spans[-1][1])
        else:
            spans.append((start, stop))
    return tuple(spans)


def list_zip(path: AnyPath) -> tuple[tuple[ZipMember, ...], tuple[str, ...]]:
    """The files in the zip `path` by name, and notes on those that are left out.

    Zips in it, encrypted members, links, and names that lead out of it are left out.

    Raises
    ------
    UnreadableScanError: no zip, damaged, or it claims more than a zip of its size can hold.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise UnreadableScanError(
            f"{path}: not a readable zip file ({error}); copy it again from its source"
        ) from error
    if len(infos) > MAX_MEMBERS:
        raise UnreadableScanError(f"{path}: {len(infos)} files in it, at most {MAX_MEMBERS}")
    members, notes = [], []
    for info in infos:
        if reason := _refusal(info):
            notes.append(f"{path}!{info.filename[:200]}: skipped, {reason}")
        else:
            members.append(_member(path, info))
    return tuple(sorted(members)), tuple(notes)


def _refusal(info: zipfile.ZipInfo) -> str:
    """Why a member is left alone, or an empty text."""
    parts = PurePosixPath(info.filename.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        return "its name leads out of the zip"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link"
    if info.flag_bits & _ENCRYPTED:
        return "it is encrypted; unpack it, then ingest the folder"
    if info.filename.lower().endswith(".zip"):
        return "a zip in a zip; unpack the outer one, then ingest the folder"
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return f"packed by method {info.compress_type}; expected stored or deflated"
    if info.file_size > min(MAX_MEMBER_BYTES, info.compress_size * _MAX_PACKING):
        return f"it claims {info.file_size} bytes unpacked from {info.compress_size}"
    return ""


def _member(path: AnyPath, info: zipfile.ZipInfo) -> ZipMember:
    return ZipMember(
        path,
        info.filename,
        info.header_offset,
        info.compress_size,
        info.file_size,
        info.CRC,
        info.compress_type == zipfile.ZIP_DEFLATED,
    )
