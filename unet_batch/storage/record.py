"""VolumeInfo and LabelClass as JSON and back: the attributes of a Volume, a row of the Catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from unet_batch.errors import StoreError
from unet_batch.planning.volume_info import (
    ChannelStatistics,
    Json,
    LabelClass,
    OutsideImage,
    VolumeInfo,
)


def info_to_json(info: VolumeInfo) -> dict[str, Json]:
    """Every field of `info` but its labels, which change after the Volume is published."""
    return {
        "id": info.id,
        "shape_czyx": list(info.shape_czyx),
        "dtype": info.dtype,
        "spacing_mm": list(info.spacing_mm),
        "affine": list(info.affine),
        "chunk_zyx": list(info.chunk_zyx),
        "shard_zyx": list(info.shard_zyx),
        "content_hash": info.content_hash,
        "channels": list(info.channels),
        "statistics": [statistics_to_json(item) for item in info.statistics],
        "modality": info.modality,
        "warnings": list(info.warnings),
        "metadata": dict(info.metadata),
        **({"outside": outside_to_json(info.outside)} if info.outside else {}),
    }


def info_from_json(
    content: Mapping[str, Any], *, labels: Sequence[str] = (), where: str
) -> VolumeInfo:
    """The VolumeInfo that `info_to_json` wrote. Raises StoreError that names `where`."""
    try:
        c, z, y, x = map(int, content["shape_czyx"])
        return VolumeInfo(
            id=str(content["id"]),
            shape_czyx=(c, z, y, x),
            dtype=str(content["dtype"]),
            spacing_mm=_three(content["spacing_mm"], float),
            affine=_affine(content["affine"]),
            chunk_zyx=_three(content["chunk_zyx"], int),
            shard_zyx=_three(content["shard_zyx"], int),
            content_hash=str(content["content_hash"]),
            channels=tuple(map(str, content["channels"])),
            statistics=tuple(map(statistics_from_json, content["statistics"])),
            modality=str(content["modality"]),
            labels=tuple(labels),
            warnings=tuple(map(str, content["warnings"])),
            metadata=dict(content["metadata"]),
            outside=_outside(content["outside"]) if "outside" in content else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{where}: not a complete description of a Volume ({error!r}); ingest it again"
        ) from error


def outside_to_json(outside: OutsideImage) -> dict[str, Json]:
    """All fields."""
    return {**asdict(outside), "block_czyx": list(outside.block_czyx)}


def statistics_to_json(statistics: ChannelStatistics) -> dict[str, Json]:
    """All fields; percentages become the keys of a JSON object."""
    percentiles: Json = {f"{k:g}": v for k, v in statistics.percentiles.items()}
    return {**asdict(statistics), "percentiles": percentiles}


def statistics_from_json(content: Mapping[str, Any]) -> ChannelStatistics:
    """The ChannelStatistics that `statistics_to_json` wrote."""
    percentiles = dict(sorted((float(k), float(v)) for k, v in content["percentiles"].items()))
    return ChannelStatistics(**{**content, "percentiles": percentiles})


def classes_to_json(classes: Sequence[LabelClass]) -> list[Json]:
    """Value, name and colour of each class."""
    return [{"value": c.value, "name": c.name, "color": list(c.color)} for c in classes]


def classes_from_json(content: Sequence[Mapping[str, Any]], where: str) -> tuple[LabelClass, ...]:
    """The classes that `classes_to_json` wrote. Raises StoreError that names `where`."""
    try:
        return tuple(
            LabelClass(int(c["value"]), str(c["name"]), _three(c["color"], int)) for c in content
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where}: its classes cannot be read ({error!r})") from error


def _outside(content: Mapping[str, Any]) -> OutsideImage:
    c, z, y, x = map(int, content["block_czyx"])
    url, path, axes, version = (str(content[key]) for key in ("url", "path", "axes", "version"))
    return OutsideImage(url, path, axes, version, block_czyx=(c, z, y, x))


def _three(values: Sequence[Any], kind: type[Any]) -> tuple[Any, Any, Any]:
    z, y, x = map(kind, values)
    return z, y, x


def _affine(values: Sequence[Any]) -> tuple[float, ...]:
    if len(values) != 16:
        raise ValueError(f"affine has {len(values)} numbers, expected 16")
    return tuple(map(float, values))
