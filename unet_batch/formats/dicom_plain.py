"""The plainest DICOM files, read at nearly the speed of the disk.

An archive is mostly classic slices, uncompressed and little-endian. pydicom takes a millisecond
for each, most of it to make objects of elements that nobody asks for. This module walks over
the elements and keeps the few that matter:

    tag (group, element)   VR   length             value
    0028 0010              US   2                  512          PS3.5, 7.1.2: explicit VR
    0028 0010                   2 0                512          PS3.5, 7.1.3: implicit VR
    7FE0 0010              OW   0 0 524288         pixels

Whatever is unusual (other syntaxes, many frames, colour, lookup tables, a file that ends early)
is no case for it: it returns None, and pydicom reads the file and says what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from unet_batch.formats.dicom_file import Place, head_of
from unet_batch.formats.remote import HEAD_BYTES

Value = str | int | list[str]

_WHOLE_NUMBERS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel",
)  # fmt: skip
_LAYOUT = (*_WHOLE_NUMBERS, "PhotometricInterpretation", "NumberOfFrames")

_MAX_ELEMENTS = 2000
_MAX_DEPTH = 10
_FIRST = 132  # behind the preamble and `DICM`
_UNDEFINED = 0xFFFFFFFF
_PIXELS = 0x7FE00010
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5, 7.5
_SYNTAX, _CLASS, _LAST_META = 0x00020010, 0x00020002, 0x0002FFFF
_OTHER_ENCODINGS = {"", DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT",
          b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}  # fmt: skip
_TAG_VR_LENGTH, _LONG_LENGTH = struct.Struct("<HH2sH"), struct.Struct("<I")
_TAG, _TAG_LENGTH = struct.Struct("<HH"), struct.Struct("<HHI")
_NEVER_PLAIN = {
    int(tag_for_keyword(keyword) or 0)
    for keyword in (
        "ModalityLUTSequence", "PerFrameFunctionalGroupsSequence", "FloatPixelData",
        "DoubleFloatPixelData", "ExtendedOffsetTable",
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlainFile:
    """What was kept of a file.

    `attributes` by keyword; UIDs of the object's class and of the transfer syntax; `pixels` are
    offset and length of the pixels in `content`, where they were reached.
    """

    attributes: Mapping[str, Value]
    class_uid: str
    syntax: str
    content: bytes
    pixels: tuple[int, int] | None


def peek(place: Place, keywords: tuple[str, ...]) -> PlainFile | None:
    """The attributes of these `keywords` from the head of a file; None where it is not plain.

    Elements are sorted by tag: the walk ends behind the last one wanted.
    """
    wanted = _tags(keywords)
    try:
        return _walk(head_of(place, HEAD_BYTES), wanted, until=max(wanted))
    except (struct.error, ValueError):
        return None


def read_plain(place: Place, keywords: tuple[str, ...]) -> PlainFile | None:
    """The attributes and the pixels of a whole file; None where it is not plain."""
    with place.open("rb") as stream:
        content = stream.read()
    try:
        found = _walk(content, _tags((*keywords, *_LAYOUT)), until=_PIXELS)
    except (struct.error, ValueError):
        return None
    is_raw = found.syntax in {ExplicitVRLittleEndian, ImplicitVRLittleEndian}
    return found if is_raw and _is_one_grey_frame(found) else None


def plain_pixels(plain: PlainFile) -> NDArray[np.generic]:
    """Stored pixels (y, x) of a file that `read_plain` found: a view of its content."""
    kept = plain.attributes
    bits, sign = int(str(kept["BitsAllocated"])), "i" if kept["PixelRepresentation"] else "u"
    offset, _ = plain.pixels or (0, 0)
    shape = int(str(kept["Rows"])), int(str(kept["Columns"]))
    pixels = np.frombuffer(
        plain.content, f"<{sign}{bits // 8}", count=shape[0] * shape[1], offset=offset
    )
    if unused := bits - int(str(kept["BitsStored"])):
        pixels = (pixels << unused) >> unused  # what lies above BitsStored is no part of a value
    return pixels.reshape(shape)


def _is_one_grey_frame(found: PlainFile) -> bool:
    kept = found.attributes
    numbers = [kept.get(key) for key in _WHOLE_NUMBERS]
    if not all(isinstance(number, int) for number in numbers) or found.pixels is None:
        return False
    rows, columns, allocated, stored, high, sign, samples = map(int, map(str, numbers))
    size = rows * columns * allocated // 8
    is_grey = kept.get("PhotometricInterpretation") == "MONOCHROME2" and samples == 1
    is_whole = 0 < size <= found.pixels[1] <= size + 1
    is_simple = allocated in (8, 16) and 0 < stored <= allocated and high == stored - 1
    is_single = kept.get("NumberOfFrames", "1") == "1"
    return is_grey and is_whole and is_simple and is_single and sign in (0, 1)


@lru_cache
def _tags(keywords: tuple[str, ...]) -> dict[int, str]:
    return {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}


def _walk(content: bytes, wanted: Mapping[int, str], *, until: int) -> PlainFile:
    """The elements up to the tag `until`, which must be reached.

    Raises ValueError for what is not plain, struct.error where `content` ends within an element.
    """
    found: dict[str, Value] = {}
    pixels, tag = None, 0
    meta, start = _meta_of(content)
    is_implicit = meta[_SYNTAX] == ImplicitVRLittleEndian
    for tag, value in _elements(content, start, is_implicit=is_implicit):
        if tag in _NEVER_PLAIN:
            raise ValueError(f"element {tag:08X}")
        if tag in wanted:
            found[wanted[tag]] = _value(content[value], wanted[tag])
        elif tag == _PIXELS:
            pixels = value.start, value.stop - value.start
        if tag >= until:
            return PlainFile(found, meta[_CLASS], meta[_SYNTAX], content, pixels)
    raise ValueError(f"the file ends at {tag:08X}")


def _meta_of(content: bytes) -> tuple[dict[int, str], int]:
    """Syntax and class from the file's meta information, and where that ends. Raises as `_walk`."""
    if content[128:_FIRST] != b"DICM":
        raise ValueError("no DICOM")
    meta, end = {_SYNTAX: "", _CLASS: ""}, _FIRST
    for tag, value in _elements(content, _FIRST, is_implicit=False, last_tag=_LAST_META):
        end = value.stop
        if tag in meta:
            meta[tag] = _text(content[value])
    if meta[_SYNTAX] in _OTHER_ENCODINGS:
        raise ValueError(f"syntax {meta[_SYNTAX]!r}")
    return meta, end


def _elements(
    content: bytes, at: int, *, is_implicit: bool, last_tag: int = _ITEM - 1
) -> Iterator[tuple[int, slice]]:
    """Tag and place of the value of each element up to `last_tag`, from `at` on.

    Raises as `_walk`: also where tags do not ascend.
    """
    before = 0
    for _ in range(_MAX_ELEMENTS):
        group, element = _TAG.unpack_from(content, at)
        if group << 16 | element > last_tag:
            return
        tag, length, start = _header(content, at, is_implicit=is_implicit)
        if tag <= before or (length == _UNDEFINED and tag == _PIXELS):
            raise ValueError(f"element {tag:08X} out of order, or compressed pixels")
        end = start + length
        if length == _UNDEFINED:
            end = _end_of_sequence(content, start, is_implicit=is_implicit)
        if end > len(content):
            raise ValueError(f"the file ends within element {tag:08X}")
        yield tag, slice(start, end)
        at, before = end, tag
    raise ValueError(f"more than {_MAX_ELEMENTS} elements")


def _header(content: bytes, at: int, *, is_implicit: bool) -> tuple[int, int, int]:
    """Tag and length of the element at `at`, and where its value begins. Raises as `_walk`."""
    if is_implicit:
        group, element, length = _TAG_LENGTH.unpack_from(content, at)
        return group << 16 | element, length, at + 8
    group, element, vr, short = _TAG_VR_LENGTH.unpack_from(content, at)
    tag = group << 16 | element
    if vr in _SHORT:
        return tag, short, at + 8
    if group == _ITEM >> 16:
        return tag, _LONG_LENGTH.unpack_from(content, at + 4)[0], at + 8
    if vr not in _LONG:
        raise ValueError(f"VR {vr!r}")
    (length,) = _LONG_LENGTH.unpack_from(content, at + 8)
    if length == _UNDEFINED and vr != b"SQ":
        raise ValueError(f"{vr!r} of undefined length")
    return tag, length, at + 12


def _end_of_sequence(content: bytes, at: int, *, is_implicit: bool, depth: int = 0) -> int:
    """Where the sequence ends whose items begin at `at`. Raises as `_walk`."""
    if depth > _MAX_DEPTH:
        raise ValueError("sequences within sequences")
    for _ in range(_MAX_ELEMENTS):
        tag, length, at = _header(content, at, is_implicit=is_implicit)
        if tag == _END_OF_SEQUENCE:
            return at
        if tag != _ITEM:
            raise ValueError(f"element {tag:08X} in the place of an item")
        if length != _UNDEFINED:
            at += length
            continue
        while True:
            tag, length, at = _header(content, at, is_implicit=is_implicit)
            if tag == _END_OF_ITEM:
                break
            if length == _UNDEFINED:
                at = _end_of_sequence(content, at, is_implicit=is_implicit, depth=depth + 1)
            else:
                at += length
    raise ValueError(f"more than {_MAX_ELEMENTS} items")


def _value(content: bytes, keyword: str) -> Value:
    """As pydicom would give it: a whole number, a text, or a list of texts."""
    if keyword in _WHOLE_NUMBERS:
        return int(struct.unpack("<H", content)[0])
    text = _text(content)
    return [part.strip() for part in text.split("\\")] if "\\" in text else text


def _text(content: bytes) -> str:
    return content.decode("latin-1").rstrip("\0 ").strip()
