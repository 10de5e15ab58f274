"""A small Job for a soak where none is named: volumes of noise through a small random network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import open_archive

LARGE, SMALL = (200, 64, 64), (30, 30, 30)
"""Some are many Blocks long, and others are packed many to a Step."""


def make_job(folder: Path, *, num_large: int = 12, num_small: int = 60) -> SegmentSpec:
    """An Archive and a Bundle below `folder`, and the Spec that segments the one by the other."""
    archive = open_archive(folder / "archive", create=True)
    noise = np.random.default_rng(0)
    shapes = [LARGE] * num_large + [SMALL] * num_small
    infos = [
        archive.write_scan(
            Scan(
                f"v{k:03d}",
                noise.integers(-1000, 1000, (1, *shape)).astype(np.int16),
                np.eye(4),
                ("CT",),
                "CT",
            ),
            source={},
            list_it=False,
        )
        for k, shape in enumerate(shapes)
    ]
    archive.catalog.append(infos)
    torch.manual_seed(0)
    config = BundleConfig(
        name="soak",
        network_name="residual_unet",
        network_arguments={"channels": [8, 16, 32], "num_res_units": 2},
        channels=("CT",),
        roi=(32, 32, 32),
        classes=(LabelClass(0, "background"), LabelClass(1, "organ"), LabelClass(2, "lesion")),
        spacing_mm=(1, 1, 1),
    )
    save_bundle(folder / "bundle", config, config.build_network().state_dict())
    return SegmentSpec.model_validate(
        {
            "archive": archive.url,
            "model": str(folder / "bundle"),
            "labels": "net",
            "inference": {"batch_size": 2, "engine": "torch", "precision": "fp32"},
            "resources": {"memory_budget": "12MiB"},
        }
    )
