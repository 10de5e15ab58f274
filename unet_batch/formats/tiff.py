"""TIFF files (stacks, OME-TIFF, ImageJ, single pictures) to Scans, through tifffile.

Axes come from the file (ImageJ and OME name them); pages without names are z. Voxel sizes come
from OME's PhysicalSize or ImageJ's spacing; plain TIFF resolutions describe paper and are not
taken. Orientation is that of a picture (see `pictures`).
"""

from __future__ import annotations

import logging
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import tifffile
from numpy.typing import NDArray

from unet_batch.errors import UnreadableScanError, VoxelError
from unet_batch.formats.kinds import stem_of
from unet_batch.formats.pictures import picture_affine
from unet_batch.formats.scan import Scan

Spacing = tuple[float, float, float]

_LOGGER = logging.getLogger("tifffile")
_LOGGER.propagate = False  # its errors are raised here, with the name of the file
_Z_AXES, _CHANNEL_AXES = "ZQI", "CS"
_MM_PER_UNIT = {
    "nm": 1e-6, "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "\\u00B5m": 1e-3, "mm": 1.0, "cm": 10.0,
    "m": 1000.0, "inch": 25.4,
}  # fmt: skip
_MAX_PACKING = 1032  # zlib's technical notes: deflate cannot shrink further
_MAX_TILE_BYTES = 2**28
_ALPHA = (1, 2)  # TIFF 6.0, ExtraSamples: associated and unassociated alpha
_UNREADABLE = (
    tifffile.TiffFileError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError,
    AttributeError, RuntimeError, OverflowError, MemoryError, ZeroDivisionError, AssertionError,
    NotImplementedError, struct.error, zlib.error, ParseError,
)  # fmt: skip


def read_tiff(path: Path, *, name: str | None = None, spacing_mm: Spacing | None = None) -> Scan:
    """The Scan of the first image series in `path`: pages become z, samples channels.

    `spacing_mm` (z, y, x) overrules what the file states.

    Raises
    ------
    UnreadableScanError: truncated, corrupt, of another kind, or packed in an unknown way.
    VoxelError: complex voxels, several time points, or axes of no known meaning.
    """
    try:
        # never the further files that OME-XML may name: they could lie anywhere
        with _complaints() as complaints, tifffile.TiffFile(path, _multifile=False) as tiff:
            series = tiff.series[0]
            _refuse_impossible_size(series, path)
            stored, axes, num_alpha = series.asarray(maxworkers=1), series.axes, _num_alpha(series)
            stated, num_others = _stated_spacing(tiff), len(tiff.series) - 1
            if complaints or not stored.size:
                raise tifffile.TiffFileError(complaints[0] if complaints else "no pixels")
    except _UNREADABLE as error:
        raise UnreadableScanError(
            f"{path}: not a readable TIFF file ({type(error).__name__}: {str(error)[:200]}); "
            "copy it again from its source, or save it uncompressed"
        ) from error
    voxels_czyx = _as_czyx(stored, axes, path)
    voxels_czyx = voxels_czyx[: len(voxels_czyx) - num_alpha]
    odd = {
        "transparency (alpha) was dropped": num_alpha,
        f"{num_others} further images in the file were left out": num_others,
        "the file states no voxel size: 1 mm is assumed (spacing_mm in the Spec)": not (
            spacing_mm or stated
        ),
    }
    return Scan(
        name=name or stem_of(path),
        voxels_czyx=np.ascontiguousarray(voxels_czyx),
        affine=picture_affine(spacing_mm or stated or (1.0, 1.0, 1.0)),
        channels=_channel_names(len(voxels_czyx), axes),
        metadata={"format": "tiff"},
        warnings=tuple(text for text, is_so in odd.items() if is_so),
    )


class _Complaints(logging.Handler):
    """Errors that tifffile only logs, of this thread: it goes on without the pages it lost."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.thread = threading.get_ident()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, if it is one of this thread's file."""
        if record.thread == self.thread:
            self.messages.append(record.getMessage())


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What tifffile complains of while the context lasts."""
    handler = _Complaints()
    _LOGGER.addHandler(handler)
    try:
        yield handler.messages
    finally:
        _LOGGER.removeHandler(handler)


def _refuse_impossible_size(series: Any, path: Path) -> None:
    """Refuse tags that promise more than the file can hold, before memory is taken."""
    itemsize, size = np.dtype(series.dtype).itemsize, path.stat().st_size
    promised = int(np.prod(series.shape, dtype=object)) * itemsize
    tile = int(np.prod(series.keyframe.chunks, dtype=object)) * itemsize
    if not 0 < promised <= size * _MAX_PACKING or tile > promised + _MAX_TILE_BYTES:
        raise UnreadableScanError(
            f"{path}: the tags promise {promised} bytes of pixels (shape {series.shape}, tiles of "
            f"{tile} bytes), the file of {size} bytes cannot hold them: truncated or corrupt"
        )


def _num_alpha(series: Any) -> int:
    """How many of the last samples of a pixel are transparency."""
    extra = series.keyframe.extrasamples if "S" in series.axes else ()
    return sum(int(sample) in _ALPHA for sample in extra)


def _as_czyx(stored: NDArray[np.generic], axes: str, path: Path) -> NDArray[np.generic]:
    """`stored` with one letter of `axes` a dimension as (channel, z, y, x)."""
    if stored.dtype.kind not in "biuf":
        raise VoxelError(f"{path}: {stored.dtype} voxels; expected real grey values")
    long = [k for k, axis in enumerate(axes) if stored.shape[k] > 1 or axis in "YX"]
    stored = stored.reshape([stored.shape[k] for k in long])
    axes = "".join(axes[k] for k in long)
    channel = [k for k, axis in enumerate(axes) if axis in _CHANNEL_AXES]
    z = [k for k, axis in enumerate(axes) if axis in _Z_AXES]
    if len(z) > 1 or set(axes) - set(_Z_AXES + _CHANNEL_AXES + "YX") or not {*"YX"} <= {*axes}:
        raise VoxelError(
            f"{path}: axes {axes} of sizes {stored.shape}; expected Y, X, and of Z, C (channels), "
            "S (samples) what there is; save each time point or position as a file of its own"
        )
    ordered = stored.transpose(*channel, *z, axes.index("Y"), axes.index("X"))
    num_z = stored.shape[z[0]] if z else 1
    return ordered.reshape(-1, num_z, *ordered.shape[-2:])


def _channel_names(count: int, axes: str) -> tuple[str, ...]:
    if count == 1:
        return ("grey",)
    if count == 3 and "S" in axes:
        return ("red", "green", "blue")
    return tuple(str(number) for number in range(count))


def _stated_spacing(tiff: Any) -> Spacing | None:
    """Voxel size (z, y, x) in mm as OME or ImageJ wrote it, or None."""
    if tiff.is_ome:
        return _ome_spacing(tiff.ome_metadata or "")
    return _imagej_spacing(tiff) if tiff.is_imagej else None


def _ome_spacing(xml: str) -> Spacing | None:
    """PhysicalSize of the first Pixels element; micrometres where no unit is given, as OME says."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    sizes = []
    for axis in "ZYX":
        found = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', pixels[0]) if pixels else None
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', pixels[0]) if pixels else None
        sizes.append(_length(found[1] if found else None, unit[1] if unit else "µm"))
    z, y, x = sizes
    return (z or x or 1.0, y, x) if y and x else None


def _imagej_spacing(tiff: Any) -> Spacing | None:
    own, tags = tiff.imagej_metadata or {}, tiff.pages[0].tags
    unit = str(own.get("unit", ""))
    if unit not in _MM_PER_UNIT or not {"XResolution", "YResolution"} <= {t.name for t in tags}:
        return None
    (xn, xd), (yn, yd) = tags["XResolution"].value, tags["YResolution"].value
    x, y = _length(xd / xn if xn else None, unit), _length(yd / yn if yn else None, unit)
    z = _length(own.get("spacing"), unit)
    return (z or x or 1.0, y, x) if y and x else None


def _length(value: Any, unit: str) -> float | None:
    """Positive finite millimetres, or None where the value or the unit says nothing."""
    try:
        length = float(value) * _MM_PER_UNIT[unit]
    except (TypeError, ValueError, KeyError):
        return None
    return length if 0 < length < np.inf else None
