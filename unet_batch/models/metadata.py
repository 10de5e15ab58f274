"""`configs/metadata.json`: what MONAI's own tools, and a person, read of a Bundle first."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from unet_batch.models.networks.definition import Definition

if TYPE_CHECKING:
    from unet_batch.models.bundle import BundleConfig

# The schema MONAI's model zoo validates against (monai.bundle verify_metadata).
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)

_TRIED = {"fire": "0.7.1", "nibabel": "5.4.2", "scipy": "1.17.1"}
"""Beside MONAI, what `python -m monai.bundle run` imports; the versions this was tried with."""


def metadata(config: BundleConfig, description: str) -> dict[str, Any]:
    """Who made what with which versions, and the data's format; beyond MONAI's fields our own.

    The scores are those of Volumes held back from training, with their intervals.
    """
    foreground = [one.name for one in config.classes if one.value]
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "trained by unet-batch"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": _packages(config.definition()),
        "name": config.name,
        "task": f"Segmentation of {', '.join(foreground)}",
        "description": description or f"{config.network_name} trained by unet-batch",
        "authors": "unet-batch",
        "copyright": "the owner of the training data",
        "data_type": "nibabel",
        "image_classes": f"{config.in_channels} channels: {', '.join(config.channels)}",
        "label_classes": _label_classes(config),
        "pred_classes": _prediction_classes(config),
        "eval_metrics": _metrics(config),
        "intended_use": "Research; not for diagnostic use",
        "network_data_format": {
            "inputs": {"image": _image_format(config)},
            "outputs": {"pred": _prediction_format(config)},
        },
        "intensity": config.intensity.model_dump(mode="json"),
        "grid": config.grid.model_dump(mode="json"),
        "training_spacing_zyx_mm": list(config.spacing_mm),
        "axes": "the network takes and gives (z, y, x); configs/inference.json turns NIfTI's",
    }


def _packages(definition: Definition) -> dict[str, str]:
    """Packages to install; one of our own architectures needs this one."""
    own = {"unet-batch": version("unet-batch")}
    is_own = not definition.bundle_target.startswith("monai.")
    return _TRIED | (own if is_own else {})


def _metrics(config: BundleConfig) -> dict[str, Any]:
    """`{"mean_dice": 0.9, "mean_dice_interval": [0.88, 0.92]}`."""
    intervals = {
        f"{name}_interval": list(interval) for name, interval in config.score_intervals.items()
    }
    return {**config.scores, **intervals}


def _label_classes(config: BundleConfig) -> str:
    return ", ".join(f"{one.value} is {one.name}" for one in config.classes)


def _prediction_classes(config: BundleConfig) -> str:
    names = ", ".join(f"channel {k} is {one.name}" for k, one in enumerate(config.classes))
    return f"{len(config.classes)} channels of logits for a {config.activation}: {names}"


def _image_format(config: BundleConfig) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "n/a",
        "num_channels": config.in_channels,
        "spatial_shape": list(config.roi),
        "dtype": "float32",
        "value_range": _value_range(config),
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(config.channels)},
    }


def _value_range(config: BundleConfig) -> list[float]:
    """What normalised voxels lie between; empty where nothing bounds them."""
    modes = {rule.mode for rule in config.intensity.rules(config.in_channels)}
    return [0.0, 1.0] if modes <= {"percentile", "window"} else []


def _prediction_format(config: BundleConfig) -> dict[str, Any]:
    return {
        "type": "image",
        # Of MONAI's formats: the largest channel names the class, or each channel on its own.
        "format": "labels" if config.activation == "softmax" else "classes",
        "num_channels": len(config.classes),
        "spatial_shape": list(config.roi),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(index): one.name for index, one in enumerate(config.classes)},
    }
