"""Pictures of one slice: the scan in grey, the mask tinted and outlined, the truth as a line.

Everything is drawn at the picture's resolution: the scan is interpolated, and so is each
class before the largest wins, so outlines are smooth and keep their place to half a voxel.
"""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from unet_batch.planning.volume_info import LabelClass, VolumeInfo
from unet_batch.reporting.planes import Plane, fullest_slices, planes_of

Rgb = tuple[int, int, int]

CT_ABDOMEN_HU = (-160.0, 240.0)
"""Soft-tissue window, level 40 and width 400 HU, the usual abdominal CT setting."""

WINDOW_PERCENTILES = (0.5, 99.5)

LONG_SIDE, SHORT_SIDE, MAX_SIDE = 440, 150, 720
"""Pixels: the long side of a picture, the least of the short one, and the most for that."""

FILL, FILL_BESIDE_TRUTH = 0.34, 0.22
LINE_WIDTH = 2
WEBP_QUALITY = 80

PALETTE: tuple[Rgb, ...] = (
    (240, 98, 82),
    (64, 176, 255),
    (250, 196, 60),
    (84, 208, 138),
    (186, 132, 255),
    (255, 140, 190),
    (60, 214, 214),
    (255, 150, 64),
)
"""Eight hues that keep apart from each other and from grey, on light and on dark."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One slice as an image: `data_uri` embeds it, `where` says `slice 9 of 26`.

    The letters name the patient's sides at the edges; empty for a single 2-D image.
    """

    plane: str
    data_uri: str
    width: int
    height: int
    where: str
    top: str
    bottom: str
    left: str
    right: str
    alt: str


def window_of(info: VolumeInfo, channel: int) -> tuple[float, float]:
    """The intensities shown as black and white: abdominal for CT, else from the percentiles."""
    if info.modality == "CT":
        return CT_ABDOMEN_HU
    statistics = info.statistics[channel]
    low, high = (statistics.percentiles.get(p) for p in WINDOW_PERCENTILES)
    low = statistics.min if low is None else low
    high = statistics.max if high is None else high
    return (low, high) if high > low else (statistics.min, statistics.max)


def distinct_colors(classes: Sequence[LabelClass]) -> dict[int, Rgb]:
    """A colour for each class value: the classes' own where they differ, else a palette."""
    own = [c.color for c in classes]
    if len(set(own)) == len(own):
        return {c.value: c.color for c in classes}
    return {c.value: _palette_color(k) for k, c in enumerate(classes)}


def draw_planes(
    info: VolumeInfo,
    image_zyx: da.Array,
    mask_zyx: da.Array,
    truth_zyx: da.Array | None,
    *,
    colors: Mapping[int, Rgb],
    window: tuple[float, float],
    positions: tuple[int, int, int] | None = None,
) -> tuple[Picture, ...]:
    """Pictures of up to three planes through the slices where mask and truth are largest.

    Only those slices of `image_zyx` are read; masks are read one chunk at a time. `positions`
    (z, y, x) names other slices.
    """
    affine = np.array(info.affine, dtype=np.float64).reshape(4, 4)
    positions = positions or fullest_slices(mask_zyx, truth_zyx)
    pictures = []
    for plane in planes_of(affine, info.shape_zyx):
        position = positions[plane.axis]
        size = picture_size(plane.size_mm(info.shape_zyx))
        grey = paint_grey(plane.cut(image_zyx, position), size, window)
        truth = None if truth_zyx is None else plane.cut(truth_zyx, position)
        painted = overlay(grey, plane.cut(mask_zyx, position), truth, colors)
        pictures.append(_picture(info, plane, position, painted))
    return tuple(pictures)


def picture_size(size_mm: tuple[float, float]) -> tuple[int, int]:
    """Height and width in pixels, true to `size_mm` and enlarged where the short side is thin."""
    long, short = max(size_mm), min(size_mm)
    pixels_per_mm = LONG_SIDE / long
    if short * pixels_per_mm < SHORT_SIDE:
        pixels_per_mm = min(SHORT_SIDE / short, MAX_SIDE / long)
    height, width = (max(round(side * pixels_per_mm), 1) for side in size_mm)
    return height, width


def paint_grey(
    voxels: NDArray[np.generic], size: tuple[int, int], window: tuple[float, float]
) -> NDArray[np.float32]:
    """Intensities between 0 (black) and 1 (white) at `size` (height, width)."""
    low, high = window
    scale = max(high - low, 1e-12)
    finite = np.nan_to_num(voxels.astype(np.float32), nan=low, posinf=high, neginf=low)
    shown = np.clip((finite - low) / scale, 0.0, 1.0)
    return np.clip(_resize(shown, size, Image.Resampling.BICUBIC), 0.0, 1.0)


def overlay(
    grey: NDArray[np.float32],
    mask: NDArray[np.generic],
    truth: NDArray[np.generic] | None,
    colors: Mapping[int, Rgb],
) -> NDArray[np.uint8]:
    """RGB of `grey` with `mask` tinted and outlined in its classes' colours, `truth` in white."""
    rgb = np.repeat(grey[..., None], 3, axis=2)
    shown = resize_labels(mask, grey.shape)
    fill = FILL if truth is None else FILL_BESIDE_TRUTH
    tint = _tint(shown, colors)
    inside = shown != 0
    rgb[inside] = (1 - fill) * rgb[inside] + fill * tint[inside]
    inner = inner_line(shown)
    rgb[inner] = tint[inner]
    if truth is not None:
        outer = outer_line(resize_labels(truth, grey.shape))
        rgb[ndimage.binary_dilation(outer) & ~outer & ~inner] *= 0.6
        rgb[outer] = 1.0
    return np.round(rgb * 255).astype(np.uint8)


def resize_labels(labels: NDArray[np.generic], size: tuple[int, ...]) -> NDArray[np.int64]:
    """`labels` at `size`: each class is interpolated and the largest share wins."""
    values = np.unique(labels)
    best = np.zeros(size, np.float32)
    winner = np.full(size, int(values[0]), np.int64)
    for value in values:
        share = _resize((labels == value).astype(np.float32), size, Image.Resampling.BILINEAR)
        better = share > best
        best[better] = share[better]
        winner[better] = int(value)
    return winner


def inner_line(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels of a class within `LINE_WIDTH` of another class or of background."""
    size = 2 * LINE_WIDTH + 1
    high = ndimage.maximum_filter(labels, size, mode="nearest")
    low = ndimage.minimum_filter(labels, size, mode="nearest")
    line: NDArray[np.bool_] = (high != low) & (labels != 0)
    return line


def outer_line(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels just outside a class, so that where two masks agree both of their lines show."""
    line: NDArray[np.bool_] = (
        ndimage.maximum_filter(labels, 2 * LINE_WIDTH + 1, mode="nearest") != labels
    )
    return line


def encode(rgb: NDArray[np.uint8]) -> str:
    """The picture as a `data:` URI (WebP: a third of a PNG's bytes)."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(info: VolumeInfo, plane: Plane, position: int, rgb: NDArray[np.uint8]) -> Picture:
    # A single image of microscopy has no patient's left and right.
    is_flat = min(info.shape_zyx) == 1
    edges = ("", "", "", "") if is_flat else (plane.top, plane.bottom, plane.left, plane.right)
    name = "image" if is_flat else plane.name
    where = "" if is_flat else f"slice {position + 1} of {info.shape_zyx[plane.axis]}"
    return Picture(
        plane=name,
        data_uri=encode(rgb),
        width=rgb.shape[1],
        height=rgb.shape[0],
        where=where,
        top=edges[0],
        bottom=edges[1],
        left=edges[2],
        right=edges[3],
        alt=f"{' '.join(filter(None, (name, where)))} of {info.id} with its mask",
    )


def _resize(
    values: NDArray[np.float32], size: tuple[int, ...], method: Image.Resampling
) -> NDArray[np.float32]:
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((width, height), method), np.float32)


def _tint(labels: NDArray[np.int64], colors: Mapping[int, Rgb]) -> NDArray[np.float32]:
    tint = np.ones((*labels.shape, 3), np.float32)
    for value in np.unique(labels):
        if value != 0:
            tint[labels == value] = np.array(colors.get(int(value), PALETTE[0])) / 255
    return tint


def _palette_color(number: int) -> Rgb:
    if number < len(PALETTE):
        return PALETTE[number]
    # Golden-ratio steps around the colour circle never come back to the same hue.
    hue = (number * 0.618034) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.62, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)
