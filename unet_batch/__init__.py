"""unet-batch: segment whole archives of medical scans with a MONAI U-Net on Ray.

>>> import unet_batch
>>> archive = unet_batch.open_archive("my-archive")            # doctest: +SKIP
>>> volume = archive["ct_0001"]                                # doctest: +SKIP
>>> volume.image, volume.spacing_mm, volume.labels["liver"]    # doctest: +SKIP

Names are imported when they are first used, so that `import unet_batch` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet_batch.errors import UnetBatchError
    from unet_batch.planning.volume_info import LabelClass, VolumeInfo
    from unet_batch.storage.archive import Archive, open_archive
    from unet_batch.storage.volume import Labels, Volume

__version__ = "0.1.0"

_HOMES = {
    "Archive": "unet_batch.storage.archive",
    "LabelClass": "unet_batch.planning.volume_info",
    "Labels": "unet_batch.storage.volume",
    "UnetBatchError": "unet_batch.errors",
    "Volume": "unet_batch.storage.volume",
    "VolumeInfo": "unet_batch.planning.volume_info",
    "open_archive": "unet_batch.storage.archive",
}

__all__ = [
    "Archive",
    "LabelClass",
    "Labels",
    "UnetBatchError",
    "Volume",
    "VolumeInfo",
    "open_archive",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
