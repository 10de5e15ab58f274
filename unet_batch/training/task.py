"""TrainTask: everything a training needs to know, settled before a worker starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from unet_batch.errors import SpecError
from unet_batch.models.networks import Definition, define_network
from unet_batch.models.networks.trial import try_network
from unet_batch.models.precision import resolve_precision
from unet_batch.planning.auto_network import settle_network
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.planning.split import Split, split_volumes
from unet_batch.planning.volume_info import LabelClass, VolumeInfo
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Labels
from unet_batch.training.targets import ClassTable


@dataclass(frozen=True, slots=True)
class TrainTask:
    """A TrainSpec with what the Archive decides; travels to the workers.

    Attributes
    ----------
    archive_url: absolute, since workers run in folders of their own.
    table: the values of the truth, and the classes of the logits.
    channels: of every Volume, in order.
    grid: that of the network: the Spec's, with numbers for a median spacing.
    spacing_mm: median over the Volumes to train on (z, y, x), on that grid.
    data_hashes: content hash of each Volume to train on.
    held_back_hashes: the same of those held back.
    truth_keys: generation of each of these Volumes' truth: one that is corrected has another.
    listed_values: of the truth, that each of these Volumes' Labels list.
    network_reasons: why network, roi and batch size are what they are, where they were derived.
    """

    spec: TrainSpec
    archive_url: str
    split: Split
    table: ClassTable
    channels: tuple[str, ...]
    grid: GridSpec
    spacing_mm: tuple[float, float, float]
    data_hashes: dict[str, str]
    held_back_hashes: dict[str, str]
    truth_keys: dict[str, str]
    listed_values: dict[str, tuple[int, ...]]
    network_reasons: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """Of the logits; of a softmax the background first."""
        return self.table.classes

    def network(self) -> Definition:
        """The network to train. Raises SpecError where the Spec asks for what there is not."""
        return define_network(
            self.spec.network.name,
            spatial_dims=self.spec.network.spatial_dims,
            in_channels=len(self.channels),
            out_channels=len(self.classes),
            arguments=self.spec.network.arguments,
            trust_network=self.spec.trust_network,
        )


def plan_training(archive: Archive, spec: TrainSpec) -> TrainTask:
    """The TrainTask of `spec`: all selected Volumes that have the truth, split and checked.

    Raises SpecError where no Volume has the truth, where channels or classes contradict
    each other, where the recipe does not fit them, or the roi the network; MemoryBudgetError
    where no network can be derived that fits the memory.
    """
    selected = archive.select(spec.volumes, spec.where)
    found = archive.labels_of(selected, spec.truth)
    truths = {one.id: labels for one, labels in zip(selected, found, strict=True) if labels}
    infos = {one.id: one for one in selected if one.id in truths}
    if not infos:
        raise SpecError(
            f"none of the {len(selected)} Volumes selected in {spec.archive} has Labels"
            f" {spec.truth!r}; ingest them with --truth {spec.truth}=DIR"
        )
    split = split_volumes({one: info.patient for one, info in infos.items()}, spec.split)
    train = [infos[one] for one in split.train]
    labels = _common_classes(truths, spec.truth)
    _check_recipe(spec, labels, split)
    grid = _resolved_grid(spec, train)
    spacing_mm = _median_spacing(grid, train)
    table = ClassTable.of(labels, spec.activation, spec.regions)
    spec, reasons = settle_network(
        spec,
        train,
        grid=grid,
        spacing_mm=spacing_mm,
        num_classes=len(table.classes),
        itemsize=_activation_bytes(spec),
    )
    task = TrainTask(
        spec=spec,
        archive_url=archive.url,
        split=split,
        table=table,
        channels=_common_channels(list(infos.values())),
        grid=grid,
        spacing_mm=spacing_mm,
        data_hashes={one.id: one.content_hash for one in train},
        held_back_hashes={one: infos[one].content_hash for one in split.held_back},
        truth_keys={one: labels.key for one, labels in truths.items()},
        listed_values={
            one: tuple(label.value for label in labels.classes) for one, labels in truths.items()
        },
        network_reasons=reasons,
    )
    try_network(task.network(), spec.tile, batch_size=spec.training.num_patches)
    return task


def _common_channels(infos: Sequence[VolumeInfo]) -> tuple[str, ...]:
    first = infos[0]
    for info in infos:
        if len(info.channels) != len(first.channels):
            raise SpecError(
                f"Volume {info.id!r} has the channels {list(info.channels)}, {first.id!r} has"
                f" {list(first.channels)}; select Volumes of one kind with `volumes`"
            )
    return first.channels


def _common_classes(truths: Mapping[str, Labels], truth: str) -> tuple[LabelClass, ...]:
    """All classes that occur, by value; the background is added where no truth names it."""
    classes: dict[int, LabelClass] = {}
    for one, labels in truths.items():
        for label in labels.classes:
            known = classes.setdefault(label.value, label)
            if label.value and known.name != label.name:
                raise SpecError(
                    f"Volume {one!r} calls the value {label.value} of Labels {truth!r}"
                    f" {label.name!r}, others call it {known.name!r}"
                )
    classes.setdefault(0, LabelClass(0, "background", (0, 0, 0)))
    if len(classes) < 2:
        raise SpecError(f"Labels {truth!r} have no class but the background; nothing to learn")
    return tuple(classes[value] for value in sorted(classes))


def _check_recipe(spec: TrainSpec, labels: Sequence[LabelClass], split: Split) -> None:
    values, weights = [one.value for one in labels], spec.training.loss.class_weights
    if weights and len(weights) != len(values):
        raise SpecError(
            f"training.loss.class_weights has {len(weights)} numbers; Labels {spec.truth!r} hold"
            f" the {len(values)} values {values}: give each one"
        )
    for name, region in spec.regions.items():
        if unknown := sorted(set(region) - set(values)):
            raise SpecError(
                f"regions.{name} names the values {unknown}; Labels {spec.truth!r} hold {values}"
            )
    if spec.training.early_stopping and not split.held_back:
        raise SpecError(
            "training.early_stopping looks at Volumes that are held back, and there are none;"
            " raise split.holdout_share or set early_stopping to 0"
        )


def _resolved_grid(spec: TrainSpec, infos: Sequence[VolumeInfo]) -> GridSpec:
    """The Spec's grid; a median spacing in millimetres, slices of a planar network as they are."""
    if spec.grid.spacing_mm != "median":
        return spec.grid
    oriented = spec.grid.model_copy(update={"spacing_mm": None})
    z, y, x = _median_spacing(oriented, infos)
    wanted = (None if spec.network.spatial_dims == 2 else z, y, x)
    return oriented.model_copy(update={"spacing_mm": wanted})


def _median_spacing(grid: GridSpec, infos: Sequence[VolumeInfo]) -> tuple[float, float, float]:
    """Of the Volumes on `grid`."""
    maps = [grid.map_of(info) for info in infos]
    spacings = [
        grid_map.model_spacing(info.spacing_mm) if grid_map else info.spacing_mm
        for grid_map, info in zip(maps, infos, strict=True)
    ]
    z, y, x = (median(axis) for axis in zip(*spacings, strict=True))
    return z, y, x


def _activation_bytes(spec: TrainSpec) -> int:
    """Of a voxel of a feature map: what the workers' devices will compute in."""
    if spec.training.precision == "auto" and spec.resources.gpus_per_worker:
        return 2
    precision = resolve_precision(spec.training.precision, torch.device("cpu"))
    return 2 if precision == "bf16" else 4
