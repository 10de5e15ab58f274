"""Masks in the `labels/` group of an OME-Zarr image (NGFF 0.4 and 0.5) to Masks beside its Scan.

    image.ome.zarr/  0/...           voxels
                     labels/         lists the names
                       nuclei/0/...  a mask: a multiscale image of whole numbers

They come along with an image that somebody else wrote, unasked for; so one that cannot be used
is a warning, and never costs the image itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store

from unet_batch.errors import ScanError, UnreadableScanError, VoxelError
from unet_batch.formats.geometry import onto_grid
from unet_batch.formats.labels import MaskRules, as_mask
from unet_batch.formats.ngff import OWN_KEY, Image, affine_of, copy_voxels, open_image, translated
from unet_batch.formats.scan import Mask, Scan

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class EmbeddedMasks:
    """The masks of an image by name, on its grid, and why others were left out."""

    masks: Mapping[str, Mask] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_embedded_masks(
    path: Path | str,
    scan: Scan,
    rules: Mapping[str, MaskRules],
    *,
    store: Store | None = None,
) -> EmbeddedMasks:
    """What lies in the `labels/` of the image `path`, which `scan` was read from.

    `rules` say how the mask of a name is read. `store` is as of `read_ome_zarr`.
    """
    masks: dict[str, Mask] = {}
    odd = []
    for name, inner in _names(path, store).items():
        try:
            with translated(path):
                image = open_image(path, store, inner)
                masks[name] = _mask_of(image, path, scan, rules.get(name, MaskRules()))
        except ScanError as error:
            odd.append(f"the mask {name!r} in its `labels` was left out: {error}")
    return EmbeddedMasks(masks, tuple(odd))


def _names(path: Path | str, store: Store | None) -> dict[str, str]:
    """Names of the masks, and the group of each; of names that can be Labels'."""
    for parent in ("", "0/"):  # the second where bioformats2raw laid the image out
        try:
            with translated(path):
                group: Any = zarr.open_group(store or str(path), path=f"{parent}labels", mode="r")
                attributes = dict(group.attrs)
        except UnreadableScanError:
            continue
        listed = attributes.get("ome", attributes).get("labels") or []
        names = [name for name in listed if isinstance(name, str)] if _is_list(listed) else []
        safe = [name for name in names if _NAME.fullmatch(name) and ".." not in name]
        return {name: f"{parent}labels/{name}" for name in sorted(safe)}
    return {}


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _mask_of(image: Image, path: Path | str, scan: Scan, rules: MaskRules) -> Mask:
    voxels_czyx = copy_voxels(image, path)
    where = f"labels of {path}"
    if len(voxels_czyx) > 1 or voxels_czyx.dtype.kind not in "biu":
        raise VoxelError(
            f"{where}: {len(voxels_czyx)} channels of {voxels_czyx.dtype}; expected one of whole "
            "numbers"
        )
    _, z, y, x = scan.voxels_czyx.shape
    # A mask of the image's own shape lies on its grid, whatever its transforms leave out.
    is_same = voxels_czyx.shape[1:] == (z, y, x)
    affine = scan.affine if is_same else affine_of(image, path)[0]
    if not rules.class_names:
        rules = replace(rules, class_names=_own_names(image))
    mask = as_mask(voxels_czyx[0], affine, rules, where=where)
    return onto_grid(mask, scan.affine, (z, y, x))


def _own_names(image: Image) -> dict[int, str]:
    """Names of classes that unet-batch wrote; those of others are free text."""
    own = (image.attributes.get(OWN_KEY) or {}).get("classes")
    return {int(one["value"]): str(one["name"]) for one in own} if isinstance(own, list) else {}
