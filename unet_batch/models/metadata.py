"""The parts of a Bundle that MONAI's own tools read: `metadata.json` and `inference.json`."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet_batch.models.bundle import BundleConfig

# The schema MONAI's model zoo validates against (monai.bundle verify_metadata).
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)


def metadata(config: BundleConfig, description: str) -> dict[str, Any]:
    """`configs/metadata.json`: who made what with which versions, and the data's format."""
    foreground = [one.name for one in config.classes if one.value]
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "trained by unet-batch"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"safetensors": version("safetensors")},
        "name": config.name,
        "task": f"Segmentation of {', '.join(foreground)}",
        "description": description or f"{config.network_name} trained by unet-batch",
        "authors": "unet-batch",
        "copyright": "the owner of the training data",
        "network_data_format": {
            "inputs": {"image": _image_format(config)},
            "outputs": {"pred": _prediction_format(config)},
        },
    }


def inference_config(config: BundleConfig) -> dict[str, Any]:
    """`configs/inference.json`: what a MONAI ConfigParser instantiates."""
    return {
        "bundle_root": ".",
        "network_def": config.definition().monai_config(),
        "inferer": {
            "_target_": "monai.inferers.SlidingWindowInferer",
            "roi_size": list(config.roi),
            "sw_batch_size": 4,
            "overlap": 0.5,
            "mode": "gaussian",
        },
    }


def _image_format(config: BundleConfig) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "n/a",
        "num_channels": config.in_channels,
        "spatial_shape": list(config.roi),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(config.channels)},
    }


def _prediction_format(config: BundleConfig) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(config.classes),
        "spatial_shape": list(config.roi),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): one.name for index, one in enumerate(config.classes)},
    }
