"""2-D pictures (PNG, JPEG, BMP) to Scans of one slice, through Pillow.

A picture knows no patient. It is laid down as a radiologist would hang it, so that neither
viewer nor report turns it over:

    row 0   ----> column: patient's left      affine: x to L, y to P, z to S
      |
      v     row: patient's back
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from unet_batch.errors import UnreadableScanError, VoxelError
from unet_batch.formats.kinds import stem_of
from unet_batch.formats.scan import Affine, Scan

MAX_PIXELS = 2**29
"""More than any microscope's single picture; larger ones come as TIFF or OME-Zarr."""

_FORMATS = ("PNG", "JPEG", "BMP")
_GREYS = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_CHANNELS = ("red", "green", "blue")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, OverflowError,
               MemoryError, TypeError, PIL.Image.DecompressionBombError)  # fmt: skip


def picture_affine(spacing_mm: tuple[float, float, float]) -> Affine:
    """The affine of a picture: columns to the patient's left, rows to the back, z upwards."""
    z, y, x = spacing_mm
    return np.array([[0, 0, -x, 0], [0, -y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1.0]])


def read_picture(
    path: Path, *, name: str | None = None, spacing_mm: tuple[float, float, float] | None = None
) -> Scan:
    """The Scan of one slice in `path`: one grey channel, or red, green and blue.

    Transparency is dropped, palettes become colours, both with a warning. `spacing_mm` is
    (z, y, x); a picture states none that could be trusted, so without it 1 mm is taken.

    Raises
    ------
    UnreadableScanError: truncated, corrupt, of another kind, or too large.
    VoxelError: colour models such as CMYK.
    """
    mode, pixels = _decode(path)
    channels, odd = _channels(mode, pixels, path)
    if spacing_mm is None:
        odd.append("the file states no voxel size: 1 mm is assumed (spacing_mm in the Spec)")
    return Scan(
        name=name or stem_of(path),
        voxels_czyx=np.ascontiguousarray(channels[:, None]),
        affine=picture_affine(spacing_mm or (1.0, 1.0, 1.0)),
        channels=_CHANNELS if len(channels) == 3 else ("grey",),
        metadata={"format": "picture"},
        warnings=tuple(odd),
    )


def read_picture_mask(path: Path) -> NDArray[np.generic]:
    """Stored values (y, x) of a mask: greys, or a palette's indices.

    Colours are accepted where red, green and blue agree, transparency is not looked at.
    Raises as `read_picture`, and VoxelError for true colours.
    """
    mode, pixels = _decode(path)
    if pixels.ndim == 2:
        return pixels.astype(np.uint8) if mode == "1" else pixels
    colors = pixels[..., : 1 if mode in {"LA", "PA"} else 3]
    if (colors != colors[..., :1]).any():
        raise VoxelError(f"{path}: a mask in colours; save it with one grey, or index, a class")
    return colors[..., 0]


def _decode(path: Path) -> tuple[str, NDArray[np.generic]]:
    """Mode and pixels (y, x) or (y, x, band), as stored."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are judged here, damaged metadata is not used
            with PIL.Image.open(path, formats=_FORMATS) as image:
                _check_size(image, path)
                return image.mode, np.asarray(image)
    except _UNREADABLE as error:
        raise UnreadableScanError(
            f"{path}: not a readable PNG, JPEG or BMP picture ({type(error).__name__}: "
            f"{str(error)[:200]}); copy it again from its source"
        ) from error


def _check_size(image: Any, path: Path) -> None:
    num_pixels = image.width * image.height
    if not 0 < num_pixels <= MAX_PIXELS:
        raise UnreadableScanError(
            f"{path}: the header says {image.width} x {image.height} pixels; expected 1 to "
            f"{MAX_PIXELS}: corrupt, or better kept as tiled TIFF or OME-Zarr"
        )


def _channels(
    mode: str, pixels: NDArray[np.generic], path: Path
) -> tuple[NDArray[np.generic], list[str]]:
    """Channels (c, y, x), and what was dropped on the way."""
    if mode in _GREYS:
        return (pixels.astype(np.uint8) if mode == "1" else pixels)[None], []
    if mode in {"P", "PA"}:
        with PIL.Image.open(path, formats=_FORMATS) as image:
            pixels = np.asarray(image.convert("RGB"))
        return np.moveaxis(pixels, -1, 0), ["a palette was turned into red, green and blue"]
    if mode == "LA":
        return np.moveaxis(pixels, -1, 0)[:1], ["transparency (alpha) was dropped"]
    if mode == "RGBA":
        return np.moveaxis(pixels, -1, 0)[:3], ["transparency (alpha) was dropped"]
    if mode == "RGB":
        return np.moveaxis(pixels, -1, 0), []
    raise VoxelError(f"{path}: pixels are {mode}; expected grey, RGB or RGBA")
