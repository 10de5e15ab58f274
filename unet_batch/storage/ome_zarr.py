"""The metadata documents of an Archive: Zarr v3 nodes with OME-Zarr (NGFF) 0.5 attributes.

Pure functions from values to JSON documents and back. What NGFF has no place for (the exact
affine, statistics, hashes, provenance) sits beside it under the one key `unet_batch`.

NGFF: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from unet_batch.errors import DamagedError, SpecError, StoreError
from unet_batch.formats.scan import Affine
from unet_batch.planning.volume_info import Json, LabelClass, VolumeInfo
from unet_batch.storage.encoding import Encoding

NGFF_VERSION = "0.5"
OWN_KEY = "unet_batch"
_DIRECTIONS = (
    ("left-to-right", "right-to-left"),
    ("posterior-to-anterior", "anterior-to-posterior"),
    ("inferior-to-superior", "superior-to-inferior"),
)
_CHANNEL_COLORS = ("FFFFFF", "FF4040", "40FF40", "4080FF", "FFD040", "FF40FF", "40FFFF")


def to_bytes(document: Mapping[str, Json]) -> bytes:
    """`document` as JSON text; equal documents give equal bytes. Raises SpecError for NaN."""
    try:
        return json.dumps(document, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise SpecError(f"metadata that JSON cannot hold ({error}): {document!r:.300}") from error


def read_document(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `content`. Raises DamagedError that names `where` it came from."""
    try:
        document = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedError(f"{where} is damaged: {error}; restore it or ingest again") from error
    if not isinstance(document, dict):
        raise DamagedError(f"{where}: expected a JSON object, got {type(document).__name__}")
    return document


def own_attributes(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What this package wrote beside the NGFF attributes. Raises StoreError where missing."""
    own = (document.get("attributes") or {}).get(OWN_KEY)
    if not isinstance(own, dict):
        raise StoreError(
            f"{where} has no attribute {OWN_KEY!r}: it was not written by unet-batch; ingest it"
        )
    return own


def array_document(shape: Sequence[int], encoding: Encoding, axes: str) -> dict[str, Json]:
    """The `zarr.json` of an array with one dimension name for each letter of `axes`."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": encoding.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(encoding.shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0.0 if np.dtype(encoding.dtype).kind == "f" else 0,
        "codecs": encoding.codecs(),
        "dimension_names": list(axes),
        "attributes": {},
        "storage_transformers": [],
    }


@lru_cache(maxsize=256)
def array_bytes(shape: tuple[int, ...], encoding: Encoding, axes: str) -> bytes:
    """`array_document` as it is stored; scans of one shape share it."""
    return to_bytes(array_document(shape, encoding, axes))


def image_document(info: VolumeInfo, path: str, own: Mapping[str, Json]) -> dict[str, Json]:
    """The `zarr.json` of a Volume whose voxels lie in the array `path`."""
    affine = np.reshape(info.affine, (4, 4))
    channel: Json = {"name": "c", "type": "channel"}
    ome: dict[str, Json] = {
        "version": NGFF_VERSION,
        "multiscales": [
            {
                "name": info.id,
                "axes": [channel, *_space_axes(affine)],
                "datasets": [{"path": path, "coordinateTransformations": _transforms(affine, "c")}],
            }
        ],
        "omero": {"channels": _omero_channels(info)},
    }
    return _group({"ome": ome, OWN_KEY: dict(own)})


def outside_document(own: Mapping[str, Json]) -> dict[str, Json]:
    """The `zarr.json` of a Volume whose voxels lie outside: a group of Labels, no image."""
    return _group({OWN_KEY: dict(own)})


def labels_document(
    name: str, path: str, affine: Affine, classes: Sequence[LabelClass], own: Mapping[str, Json]
) -> dict[str, Json]:
    """The `zarr.json` of the mask `name` whose voxels lie in the array `path`."""
    colors: list[Json] = [{"label-value": c.value, "rgba": [*c.color, 255]} for c in classes]
    properties: list[Json] = [{"label-value": c.value, "name": c.name} for c in classes]
    image_label: dict[str, Json] = {"source": {"image": "../../"}}
    if classes:
        image_label |= {"colors": colors, "properties": properties}
    ome: dict[str, Json] = {
        "version": NGFF_VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": _space_axes(affine),
                "datasets": [{"path": path, "coordinateTransformations": _transforms(affine, "")}],
            }
        ],
        "image-label": image_label,
    }
    return _group({"ome": ome, OWN_KEY: dict(own)})


def probabilities_document(names: Sequence[str], path: str, affine: Affine) -> dict[str, Json]:
    """The `zarr.json` of an image of one channel a class, 0 to 255, in the array `path`."""
    channel: Json = {"name": "c", "type": "channel"}
    window: Json = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels: list[Json] = [
        {"label": name, "color": _CHANNEL_COLORS[k % len(_CHANNEL_COLORS)], "window": window}
        for k, name in enumerate(names)
    ]
    ome: dict[str, Json] = {
        "version": NGFF_VERSION,
        "multiscales": [
            {
                "name": "probabilities",
                "axes": [channel, *_space_axes(affine)],
                "datasets": [{"path": path, "coordinateTransformations": _transforms(affine, "c")}],
            }
        ],
        "omero": {"channels": channels},
    }
    return _group({"ome": ome})


def with_levels(
    document: Mapping[str, Any],
    first: str,
    names: Sequence[str],
    factors: Sequence[tuple[int, ...]],
    *,
    is_mean: bool,
) -> dict[str, Any]:
    """`document` of an image or mask whose array is `first`, with a data set for each level.

    `factors` say of each level how many voxels (z, y, x) of the one before make one of it. A
    mean lies in the middle of them, a voxel that was picked where it was. Where the document
    has another array by now it is returned as it is.
    """
    changed: dict[str, Any] = json.loads(json.dumps(document))
    scale = changed["attributes"]["ome"]["multiscales"][0]
    finest = scale["datasets"][0]
    if finest["path"] != first:
        return dict(document)
    pitch, place = (
        np.array(one[one["type"]], dtype=np.float64) for one in finest["coordinateTransformations"]
    )
    datasets = [finest]
    for name, factor in zip(names, factors, strict=False):
        whole = np.array([*[1] * (len(pitch) - len(factor)), *factor])
        place = place + (whole - 1) / 2 * pitch * is_mean
        pitch = pitch * whole
        transforms = [
            {"type": "scale", "scale": pitch.tolist()},
            {"type": "translation", "translation": place.tolist()},
        ]
        datasets.append({"path": name, "coordinateTransformations": transforms})
    scale["datasets"] = datasets
    scale["type"] = "mean" if is_mean else "nearest"
    return changed


def level_names(document: Mapping[str, Any]) -> set[str]:
    """Names of all arrays that a group's `multiscales` refers to."""
    scales = ((document.get("attributes") or {}).get("ome") or {}).get("multiscales") or []
    return {str(one["path"]) for scale in scales for one in scale.get("datasets", [])}


def labels_index_document(names: Sequence[str]) -> dict[str, Json]:
    """The `zarr.json` of the group that lists a Volume's Labels."""
    return _group({"ome": {"version": NGFF_VERSION, "labels": [*sorted(names)]}})


def labels_index_names(document: Mapping[str, Any], where: str) -> list[str]:
    """The names that `labels_index_document` wrote. Raises StoreError where they are missing."""
    ome = (document.get("attributes") or {}).get("ome") or {}
    names = ome.get("labels")
    if not isinstance(names, list):
        raise StoreError(f"{where}: no list `ome.labels` in it; remove the file and publish again")
    return [str(name) for name in names]


def _group(attributes: dict[str, Json]) -> dict[str, Json]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _space_axes(affine: Affine) -> list[Json]:
    orientations = _orientations(affine)
    axes: list[Json] = []
    for index, name in enumerate("zyx"):
        axis: dict[str, Json] = {"name": name, "type": "space", "unit": "millimeter"}
        if orientations:
            axis["orientation"] = {"type": "anatomical", "value": orientations[index]}
        axes.append(axis)
    return axes


def _orientations(affine: Affine) -> list[str]:
    """The anatomical direction nearest to each of z, y, x (NGFF RFC-4).

    Empty where two voxel axes are nearest to the same direction: then only the affine tells.
    """
    nearest = np.abs(affine[:3, :3]).argmax(axis=0)
    if len(set(nearest.tolist())) < 3:
        return []
    return [_DIRECTIONS[world][int(affine[world, i] < 0)] for i, world in enumerate(nearest)]


def _transforms(affine: Affine, leading: str) -> list[Json]:
    """Scale and translation along the voxel axes: all of an affine that NGFF 0.5 can say.

    The translation is the position of voxel 0 measured along each voxel axis, so that axes
    and orientation together place an upright scan; the whole affine is kept under `OWN_KEY`.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    position = affine[:3, 3] @ (affine[:3, :3] / spacing)
    scale: list[Json] = [*(1.0 for _ in leading), *map(float, spacing)]
    translation: list[Json] = [*(0.0 for _ in leading), *map(float, position)]
    return [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": translation},
    ]


def _omero_channels(info: VolumeInfo) -> list[Json]:
    """Names, colours and display windows (1st to 99th percentile) for viewers."""
    channels: list[Json] = []
    for index, (name, stats) in enumerate(zip(info.channels, info.statistics, strict=True)):
        window: Json = {
            "min": stats.min,
            "max": stats.max,
            "start": stats.percentiles.get(1.0, stats.min),
            "end": stats.percentiles.get(99.0, stats.max),
        }
        color = _CHANNEL_COLORS[index % len(_CHANNEL_COLORS)]
        channels.append({"label": name, "color": color, "active": True, "window": window})
    return channels
