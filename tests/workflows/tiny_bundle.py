"""A tiny Bundle of random weights, for the tests of what runs one."""

from __future__ import annotations

from pathlib import Path

import torch

from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.planning.volume_info import LabelClass

CLASSES = (LabelClass(0, "background"), LabelClass(1, "organ"), LabelClass(5, "lesion"))


def make_bundle(folder: Path, seed: int = 0, **changes: object) -> Path:
    """Save it in `folder`: tiles of 16 voxels a side, `changes` of its configuration."""
    torch.manual_seed(seed)
    fields: dict[str, object] = {
        "name": "tiny",
        "network_name": "residual_unet",
        "network_arguments": {"channels": [4, 8], "num_res_units": 1},
        "channels": ("CT",),
        "roi": (16, 16, 16),
        "classes": CLASSES,
        "spacing_mm": (1, 1, 1),
    }
    config = BundleConfig.model_validate(fields | changes)
    save_bundle(folder, config, config.build_network().state_dict())
    return folder
