"""Bundle: a trained model as a MONAI Bundle directory, read back without running its code.

    NAME/
    ├── configs/
    │   ├── metadata.json       what MONAI's schema asks for
    │   ├── inference.json      from NIfTI to masks with MONAI's own tools
    │   └── unet_batch.json     our typed part (`BundleConfig`): the only one read here
    ├── models/
    │   ├── model.safetensors   the weights that are read here
    │   └── model.pt            the same state_dict, for MONAI's own tools
    └── docs/, logs/            for people: card, curves and scores of the training, if it was ours

MONAI's configs can evaluate expressions (GHSA-873f-pvrv-4x83), and `.pt` is a pickle: a
Bundle may come from anywhere, so neither is ever opened here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, PrivateAttr, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from unet_batch.errors import BundleError, SpecError
from unet_batch.models.inference_config import inference_config
from unet_batch.models.metadata import metadata
from unet_batch.models.networks import Definition, build_network, define_network, is_own
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.specs.recipe import Activation
from unet_batch.planning.volume_info import Json, LabelClass

CONFIG = Path("configs/unet_batch.json")
WEIGHTS = Path("models/model.safetensors")
_MAX_CONFIG_BYTES = 64 * 2**20


class BundleConfig(SpecModel):
    """What `configs/unet_batch.json` holds: all that inference has to know of a model.

    Attributes
    ----------
    classes: one a channel of the logits; of a softmax the background (value 0) first, of a
        sigmoid, whose classes may overlap, none for the background.
    activation: what makes probabilities of the logits.
    channels: names of the scan's channels, in the order the network takes them.
    roi: the tile in voxels, one number a spatial axis (zyx or yx).
    grid: what scans are resampled to for the network; by default they stay as they are.
    spacing_mm: median spacing (z, y, x) of the Volumes it was trained on, on that grid.
    scores: figures of the training, such as the mean Dice of held-back Volumes.
    score_intervals: between what each of these means lies, by drawing Volumes again and again.
    data_hashes: content hash of each Volume it was trained on.
    held_back_hashes: the same of those that its scores are of.
    truth_keys: generation of the truth of each of both.
    train_spec: the TrainSpec, as a record.
    network_reasons: why the network and its tile are as they are, where they were derived.
    """

    format_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    network_name: str
    network_arguments: dict[str, Any] = Field(default_factory=dict)
    spatial_dims: Literal[2, 3] = 3
    channels: tuple[str, ...] = Field(min_length=1)
    roi: tuple[int, ...]
    classes: tuple[LabelClass, ...] = Field(min_length=1)
    activation: Activation = "softmax"
    intensity: IntensitySpec = IntensitySpec()
    grid: GridSpec = OWN_GRID
    spacing_mm: tuple[float, float, float]
    scores: dict[str, float] = Field(default_factory=dict)
    score_intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    data_hashes: dict[str, str] = Field(default_factory=dict)
    held_back_hashes: dict[str, str] = Field(default_factory=dict)
    truth_keys: dict[str, str] = Field(default_factory=dict)
    train_spec: dict[str, Any] = Field(default_factory=dict)
    network_reasons: tuple[str, ...] = ()
    # Never read from a file: a Bundle cannot ask for its own code to be trusted.
    _trust_network: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.roi) != self.spatial_dims or min(self.roi) < 1:
            raise ValueError(f"roi {self.roi} must be {self.spatial_dims} positive numbers")
        if self.grid.spacing_mm == "median":
            raise ValueError("grid.spacing_mm of a Bundle must be in millimetres")
        self._check_classes()
        return self

    def _check_classes(self) -> None:
        values = [one.value for one in self.classes]
        if len(set(values)) != len(values) or min(values) < 0 or max(values) >= 2**16:
            raise ValueError(f"class values {values} must differ and fit uint16")
        if self.activation == "softmax" and (values[0] != 0 or len(values) == 1):
            raise ValueError(f"class values {values} of a softmax must begin with 0, then others")
        if self.activation == "sigmoid" and 0 in values:
            raise ValueError(f"class values {values} of a sigmoid must not name the background, 0")

    @property
    def in_channels(self) -> int:
        """Channels of the scan."""
        return len(self.channels)

    def trusting(self, *, trust_network: bool) -> Self:
        """The same, with leave to import a network of the user's own, or without it."""
        copy = self.model_copy()
        copy._trust_network = trust_network  # noqa: SLF001 (a copy of our own)
        return copy

    @property
    def trusts_network(self) -> bool:
        """Whether a network of the user's own may be imported."""
        return self._trust_network

    def definition(self) -> Definition:
        """The network's class and arguments. Raises SpecError where there is no such network."""
        return define_network(
            self.network_name,
            spatial_dims=self.spatial_dims,
            in_channels=self.in_channels,
            out_channels=len(self.classes),
            arguments=self.network_arguments,
            trust_network=self._trust_network,
        )

    def build_network(self) -> torch.nn.Module:
        """The network, freshly initialised."""
        return build_network(
            self.network_name,
            spatial_dims=self.spatial_dims,
            in_channels=self.in_channels,
            out_channels=len(self.classes),
            arguments=self.network_arguments,
            trust_network=self._trust_network,
        )

    def skeleton(self) -> torch.nn.Module:
        """The network without memory, on torch's meta device, to be counted or filled.

        One of the user's own is built in memory: it may compute buffers that no weights file
        holds, or look at values.
        """
        with torch.device("cpu" if is_own(self.network_name) else "meta"):
            return self.build_network()


class Bundle(BundleConfig):
    """A BundleConfig found on disk: `path`, and `content_hash` over its weights and config."""

    path: Path
    content_hash: str

    def network(self) -> torch.nn.Module:
        """The network with its weights, in eval mode, on the CPU.

        Raises BundleError where the weights are missing, corrupt or of another network.
        """
        network = _network_for(self, _read_weights(self.path))
        return network.eval().requires_grad_(requires_grad=False)


def load_bundle(path: str | Path, *, trust_network: bool = False) -> Bundle:
    """The Bundle at `path`, validated; its weights are hashed and checked, not kept.

    `trust_network` lets a network of the user's own (`package.module:callable`) be imported.
    Raises BundleError saying which file is missing or wrong, and what to do.
    """
    path = Path(path)
    text = _read_bytes(path / CONFIG, _MAX_CONFIG_BYTES)
    try:
        config = BundleConfig.model_validate_json(text).trusting(trust_network=trust_network)
    except ValidationError as error:
        raise BundleError(f"{path / CONFIG} is not valid: {error}") from error
    weights = _read_bytes(path / WEIGHTS)
    _network_for(config, _parse_weights(weights, path / WEIGHTS))
    fields = {name: getattr(config, name) for name in BundleConfig.model_fields}
    bundle = Bundle(**fields, path=path, content_hash=_content_hash(text, weights))
    return bundle.trusting(trust_network=trust_network)


def save_bundle(
    path: str | Path,
    config: BundleConfig,
    state: Mapping[str, torch.Tensor],
    *,
    description: str = "",
) -> Bundle:
    """Write a Bundle of `config` and the state_dict `state` to the folder `path`.

    Existing files are replaced; `unet_batch.json` comes last, so that an interrupted write
    of a new Bundle is never taken for one. Raises BundleError where `state` does not fit.
    """
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    names = _names_of_shared(_network_for(config, tensors))
    own = {name: tensors[name] for name in tensors if names[name] == name}
    pickled = io.BytesIO()
    torch.save(tensors, pickled)
    _replace(path / WEIGHTS, save_tensors(own))
    _replace(path / "models/model.pt", pickled.getvalue())
    _replace(path / "configs/inference.json", _json(inference_config(config)))
    _replace(path / "configs/metadata.json", _json(metadata(config, description)))
    _replace(path / CONFIG, _json(config.model_dump(mode="json")))
    return load_bundle(path, trust_network=config.trusts_network)


def require_alike(bundles: Sequence[Bundle], *, same_roi: bool = True) -> None:
    """Raises BundleError, naming what differs, where Bundles cannot be one ensemble.

    All members see the same tiles, normalised once, and name the same classes; `same_roi`
    says whether the tile is theirs to choose.
    """
    first = bundles[0]
    fields = ["classes", "activation", "channels", "spatial_dims", "intensity", "grid"]
    for other in bundles[1:]:
        for field in [*fields, "roi"] if same_roi else fields:
            ours, theirs = getattr(first, field), getattr(other, field)
            if ours != theirs:
                raise BundleError(
                    f"Bundles {first.path} and {other.path} cannot be one ensemble: their {field}"
                    f" differ, {ours} and {theirs}. Leave one out, or segment with each alone"
                )


def _network_for(config: BundleConfig, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The network holding `state` itself: built without memory, so a false config costs none."""
    try:
        network = config.skeleton()
        shared = {
            name: state[first]
            for name, first in _names_of_shared(network).items()
            if first in state
        }
        network.load_state_dict({**state, **shared}, assign=True)
    except SpecError as error:
        raise BundleError(f"Bundle {config.name!r}: {error}") from error
    except RuntimeError as error:
        raise BundleError(
            f"Bundle {config.name!r}: the weights are not those of {config.network_name!r} with"
            f" {config.network_arguments}: {error}"
        ) from error
    return network


def _names_of_shared(network: torch.nn.Module) -> dict[str, str]:
    """Each name of the state_dict to the first name of the same tensor.

    DynUNet holds its blocks under two names; safetensors stores a tensor once.
    """
    first: dict[int, str] = {}
    tensors = network.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    return _parse_weights(_read_bytes(path / WEIGHTS), path / WEIGHTS)


def _parse_weights(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    try:
        return dict(load_tensors(content))
    except SafetensorError as error:
        raise BundleError(
            f"{path} is truncated or no safetensors file ({error}); copy or train it again"
        ) from error


def _read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise BundleError(f"{path} is larger than {max_bytes} bytes: not a Bundle of ours")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}); a model is the folder that"
            " `unet-batch train --out` made"
        ) from error


def _content_hash(config: bytes, weights: bytes) -> str:
    return hashlib.sha256(hashlib.sha256(config).digest() + weights).hexdigest()


def _json(content: Mapping[str, Json] | dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.staged-{os.getpid()}")
    staged.write_bytes(content)
    staged.replace(path)
