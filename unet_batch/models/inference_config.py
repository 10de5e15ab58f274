"""`configs/inference.json`: the way from NIfTI files to masks for MONAI's own bundle tools.

    python -m monai.bundle run --config_file configs/inference.json --bundle_root .
                               --dataset_dir SCANS --output_dir MASKS

It does in MONAI's terms what `segment` does: the same grid, the same normalisation, the same
tiles and blend; whole volumes in memory, where `segment` needs a slab. Files have the channels
last (NIfTI's fourth axis); MONAI reads (x, y, z), the network takes (z, y, x).

`run` needs MONAI alone. `evaluator` is for tools that drive a Bundle through pytorch-ignite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unet_batch.planning.specs.intensity import ChannelIntensity

if TYPE_CHECKING:
    from unet_batch.models.bundle import BundleConfig

Item = dict[str, Any]

_TURN = "$lambda voxels: voxels.permute(0, 3, 2, 1)"  # (x, y, z) to (z, y, x), and back


def inference_config(config: BundleConfig) -> Item:
    """What a MONAI ConfigParser instantiates; `bundle_root` is the Bundle's folder."""
    return {
        "imports": ["$import glob", "$import monai", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$[{'image': path} for path in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
        "network_def": config.definition().monai_config(),
        "network": "$@network_def.to(@device)",
        "preprocessing": _compose(_preprocessing(config)),
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": _inferer(config),
        "postprocessing": _compose(_postprocessing(config)),
        **_running(),
    }


def _running() -> Item:
    """What goes over the scans: `run`, or an `evaluator` of pytorch-ignite."""
    return {
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "segment": (
            "$torch.inference_mode()(lambda batch: [@postprocessing(one) for one in"
            " monai.data.decollate_batch("
            "{**batch, 'pred': @inferer(batch['image'].to(@device), @network)})])"
        ),
        "run": [
            "$@network.load_state_dict(torch.load("
            "@bundle_root + '/models/model.pt', map_location=@device, weights_only=True))",
            "$@network.eval()",
            "$[@segment(batch) for batch in @dataloader]",
        ],
    }


def _compose(transforms: list[Item]) -> Item:
    return {"_target_": "Compose", "transforms": transforms}


def _preprocessing(config: BundleConfig) -> list[Item]:
    steps: list[Item] = [
        {"_target_": "LoadImaged", "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd"},
        {"_target_": "EnsureTyped", "dtype": "$torch.float32"},
    ]
    if config.grid.orientation is not None:
        sides = [["L", "R"], ["P", "A"], ["I", "S"]]
        axes = {"axcodes": config.grid.orientation, "labels": sides}
        steps.append({"_target_": "Orientationd", **axes})
    if isinstance(config.grid.spacing_mm, tuple):
        # MONAI keeps a scan's own spacing where the wanted one is not positive.
        spacing_xyz = [mm or -1.0 for mm in config.grid.spacing_mm[::-1]]
        steps.append({"_target_": "Spacingd", "pixdim": spacing_xyz, "mode": "bilinear"})
    steps.append({"_target_": "Lambdad", "func": _normalisation(config)})
    steps.append({"_target_": "Lambdad", "func": _TURN})
    return [{**step, "keys": "image"} for step in steps]


def _normalisation(config: BundleConfig) -> str:
    """An expression of MONAI's: a function of the image (channels first), done in place."""
    rules = config.intensity.rules(config.in_channels)
    functions = ", ".join(f"lambda x: {_formula(rule)}" for rule in rules)
    channels = f"[f(x) for f, x in zip([{functions}], image.as_tensor())]"
    return f"$lambda image: image.copy_(torch.stack({channels}))"


def _formula(rule: ChannelIntensity) -> str:
    """The rule of `models.intensity` for the voxels `x` of one channel."""
    low, high = (_bound(rule, limit) for limit in (rule.low, rule.high))
    clipped = "x" if rule.low is None else f"x.clamp({low}, {high})"
    if rule.mode in {"percentile", "window"}:
        return f"({clipped} - {low}) / ({high} - {low})"
    over = "x" if rule.mode == "zscore" else "x[x > x.mean()]"
    return f"({clipped} - {over}.mean()) / {over}.std(correction=0)"


def _bound(rule: ChannelIntensity, limit: float | None) -> str:
    return str(limit) if rule.mode == "window" else f"float(np.percentile(x, {limit}))"


def _inferer(config: BundleConfig) -> Item:
    """The tile grid and blend of `segment`; a planar network sees each slice along z."""
    is_planar = config.spatial_dims == 2
    return {
        "_target_": "SliceInferer" if is_planar else "SlidingWindowInferer",
        **({"spatial_dim": 0} if is_planar else {}),
        "roi_size": list(config.roi),
        "sw_batch_size": 4,
        "overlap": 0.5,
        "mode": "gaussian",
    }


def _postprocessing(config: BundleConfig) -> list[Item]:
    steps: list[Item] = [
        {"_target_": "Lambdad", "func": _TURN},
        {
            "_target_": "Invertd",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
        },
    ]
    if config.activation == "softmax":
        steps.append({"_target_": "AsDiscreted", "argmax": True})
        values = [one.value for one in config.classes]
        if values != list(range(len(values))):
            labels = {"orig_labels": list(range(len(values))), "target_labels": values}
            steps.append({"_target_": "MapLabelValued", **labels})
    else:
        steps.append({"_target_": "Activationsd", "sigmoid": True})
        steps.append({"_target_": "AsDiscreted", "threshold": 0.5})
    steps.append(
        {
            "_target_": "SaveImaged",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$np.uint16",
            "resample": False,
            "separate_folder": False,
        }
    )
    return [{**step, "keys": "pred"} for step in steps]
