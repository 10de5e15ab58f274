"""SegmentJob: a SegmentSpec with all that it names opened; what `segment` and `plan` share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from unet_batch.errors import BundleError, SpecError
from unet_batch.inference.head import Head
from unet_batch.inference.model_address import load_model
from unet_batch.inference.outcome import Target
from unet_batch.models.bundle import WEIGHTS, Bundle, require_alike
from unet_batch.models.footprint import ForwardCost, forward_cost
from unet_batch.models.precision import Precision, dtype_of, resolve_precision
from unet_batch.planning.cost import CPU_PACE, GPU_PACE, ModelCost
from unet_batch.planning.long_plan import LongPlan
from unet_batch.planning.partition import in_partition
from unet_batch.planning.plan import Plan, Planner, Shape3
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.kinds import job_id
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import Json, LabelClass, VolumeBrief, VolumeInfo
from unet_batch.side_by_side import each
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.labels_set import BACKGROUND, LabelsSet, overlapping_names
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.stores import is_far
from unet_batch.workflows.job_volumes import JobVolumes
from unet_batch.workflows.model_references import ResolvedModel, resolve_models


@dataclass(frozen=True)
class SegmentJob:
    """A SegmentSpec with what it names opened: Archive, Bundles, and on demand Volumes.

    Of several Bundles, an ensemble, all have the classes, channels and intensity of the first.
    """

    spec: SegmentSpec
    archive: Archive
    bundles: tuple[Bundle, ...]
    models: tuple[ResolvedModel, ...]

    @classmethod
    def open(cls, spec: SegmentSpec) -> SegmentJob:
        """Raises NotFoundError, BundleError or SpecError where something named is not there."""
        archive = open_archive(spec.archive)
        models = resolve_models(spec)
        bundles = tuple(
            load_model(model.address, trust_network=spec.trust_network) for model in models
        )
        require_alike(bundles, same_roi=spec.inference.roi is None)
        archive.check_patterns(spec.volumes)
        job = cls(spec, archive, bundles, models)
        job.check_presets()
        return job

    @property
    def bundle(self) -> Bundle:
        """The Bundle, or the first member of the ensemble."""
        return self.bundles[0]

    @property
    def model_paths(self) -> tuple[str, ...]:
        """Where workers find the Bundles: folders, or versions in a registry."""
        return tuple(
            model.address if model.version else str(bundle.path.resolve())
            for model, bundle in zip(self.models, self.bundles, strict=True)
        )

    @property
    def model_name(self) -> str:
        """The Bundle's name; of an ensemble all names, joined by `+`."""
        return "+".join(bundle.name for bundle in self.bundles)

    @property
    def model_hash(self) -> str:
        """The Bundle's content hash; of an ensemble a digest of all, in order."""
        hashes = [bundle.content_hash for bundle in self.bundles]
        joined = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
        return hashes[0] if len(hashes) == 1 else joined

    @property
    def head(self) -> Head:
        """What is read out of finished sums."""
        return Head.of(self.bundles, self.spec.inference)

    @property
    def voxel_bytes(self) -> int:
        """Bytes that are written for a voxel, before they are packed: labels, probabilities."""
        head = self.head
        return head.num_labels * head.dtype.itemsize + (head.num_planes - head.num_labels)

    def check_presets(self) -> None:
        """Raises SpecError where a preset names an axis, channel or class the model has not."""
        inference, bundle = self.spec.inference, self.bundle
        if bundle.spatial_dims == 2 and "z" in inference.mirror:
            raise SpecError(
                f"inference.mirror {list(inference.mirror)}: Bundle {bundle.name!r} is 2-D, its"
                " tiles have no z to mirror; expected y, x"
            )
        if inference.skip_channel is not None and inference.skip_channel not in bundle.channels:
            raise SpecError(
                f"inference.skip_channel {inference.skip_channel!r}: the model's channels are"
                f" {list(bundle.channels)}"
            )
        for step in inference.postprocess:
            masks = step.masks(bundle.classes)
            if bundle.activation == "sigmoid" and max(map(len, masks), default=0) > 1:
                raise SpecError(
                    f"inference.postprocess: {step.step} takes classes together, but those of"
                    f" Bundle {bundle.name!r} overlap and have Labels of their own each; drop"
                    " `together`"
                )

    @cached_property
    def infos(self) -> list[VolumeInfo]:
        """The chosen Volumes, by id; of a partition its own."""
        chosen = self.archive.select(self.spec.volumes, self.spec.where)
        return in_partition(chosen, self.spec.partition)

    @cached_property
    def volumes(self) -> JobVolumes:
        """The same, however many they are, as columns of the Catalog."""
        return JobVolumes(self.archive, self.spec)

    def published(self) -> set[str]:
        """Ids of the Volumes whose Labels are those that this Job would make.

        Of very many Volumes the Job's Ledger is believed, rather than each looked at.
        """
        if not self.volumes.are_many:
            done = each(self.is_published, self.infos, at_once=is_far(self.archive.url))
            return {info.id for info, is_done in zip(self.infos, done, strict=True) if is_done}
        told = self.archive.ledger(self.id).done_keys()
        hashes = self.volumes.content_hashes() if told else ()
        return {one for one, content in hashes if told.get(one) == self.key_of(content)}

    @property
    def id(self) -> str:
        """Name of the Job: the same request on the same Archive is the same Job."""
        return job_id("segment", self.spec)

    @property
    def spec_hash(self) -> str:
        """What of the Spec decides the Labels of a Volume."""
        return self.spec.digest("inference")

    @property
    def roi_zyx(self) -> Shape3:
        """The tile: the Spec's or the Bundle's; a planar one is one voxel thick."""
        roi = self.spec.inference.roi or self.bundle.roi
        if len(roi) != self.bundle.spatial_dims:
            raise BundleError(
                f"inference.roi {roi} has {len(roi)} axes; Bundle {self.bundle.name!r} is"
                f" {self.bundle.spatial_dims}-D"
            )
        z, y, x = (1,) * (3 - len(roi)) + tuple(roi)
        return z, y, x

    @property
    def grid(self) -> GridSpec:
        """What scans are resampled to: the Spec's spacing or the Bundle's, the Bundle's axes."""
        asked, own = self.spec.inference.spacing, self.bundle.grid
        if asked == "auto":
            return own
        if asked == "model":
            z, y, x = self.bundle.spacing_mm
            asked = (None if self.bundle.spatial_dims == 2 else z, y, x)
        return own.model_copy(update={"spacing_mm": None if asked == "scan" else asked})

    def key(self, info: VolumeInfo) -> str:
        """Generation of a Volume's Labels: a digest of all that decides their bytes."""
        return self.key_of(info.content_hash)

    def key_of(self, content_hash: str) -> str:
        """The same, of the Volume of this content."""
        return hashlib.sha256(f"{content_hash} {self._digest}".encode()).hexdigest()[:24]

    def target(self, volume_id: str) -> Target:
        """Where a Volume's Labels go, by its id; for a Job of not too many."""
        return self.target_of(self._info_by_id[volume_id])

    def target_of(self, info: VolumeInfo) -> Target:
        """Where a Volume's Labels go. The provenance holds no time: bytes must repeat."""
        return Target(
            LabelsSet(self.spec.labels, tuple(self._writers(info))),
            {**self._provenance, "input_hash": info.content_hash},
            self.spec.inference.postprocess,
        )

    def _writers(self, info: VolumeInfo) -> Iterator[LabelsWriter]:
        """One for all classes, or one for each where they may overlap."""
        for name, classes in self.labels_classes.items():
            kept = classes if self.bundle.activation == "softmax" else classes[1:]
            yield LabelsWriter.for_volume(
                self.archive.url,
                info,
                name=name,
                classes=classes,
                key=self.key(info),
                dtype=self.head.dtype.name,
                probabilities=tuple(one.name for one in kept)
                if self.spec.inference.probabilities
                else (),
            )

    def plan(
        self, infos: Sequence[VolumeInfo], *, num_replicas: int, on_gpus: bool = False
    ) -> Plan:
        """The Plan of some of the Volumes; few large ones are cut to share them out."""
        planner = self.planner(len(self.infos), num_replicas=num_replicas, on_gpus=on_gpus)
        return Plan(planner, infos)

    def plan_without(
        self, published: Set[str], *, num_replicas: int, on_gpus: bool = False
    ) -> Plan:
        """The Plan of all Volumes but some; of very many a LongPlan."""
        if not self.volumes.are_many:
            todo = [info for info in self.infos if info.id not in published]
            return self.plan(todo, num_replicas=num_replicas, on_gpus=on_gpus)
        planner = self.planner(len(self.volumes), num_replicas=num_replicas, on_gpus=on_gpus)
        if planner.grid.orientation is None:
            briefs: Iterable[VolumeBrief | VolumeInfo] = self.volumes.briefs(without=published)
        else:  # needs the affine of each
            briefs = (one for one in self.infos if one.id not in published)
        return LongPlan(planner, briefs, self.volumes.fetch)

    def planner(self, num_volumes: int, *, num_replicas: int, on_gpus: bool = False) -> Planner:
        """The rules by which a Job's `num_volumes` Volumes are cut for `num_replicas` Replicas.

        They do not depend on which Volumes are done already: run again, a Job cuts alike.
        """
        return Planner(
            self.spec.inference,
            self.roi_zyx,
            self.model_cost(),
            self.bundle.channels,
            self.spec.resources.memory_budget,
            min_sweeps=-(-num_replicas // max(1, num_volumes)),
            num_replicas=num_replicas,
            pace=GPU_PACE if on_gpus else CPU_PACE,
            grid=self.grid,
        )

    def model_cost(self) -> ModelCost:
        """What the Bundle's network weighs in memory, per batch of tiles.

        With `precision: auto` in float32: a Job that was cut for bfloat16 might have to fall
        back to it.
        """
        inference = self.spec.inference
        precision = "fp32" if inference.precision == "auto" else inference.precision
        flops = sum(cost.flops for cost in self._pass_costs(precision))
        return ModelCost(
            num_channels=self.bundle.in_channels,
            num_classes=len(self.bundle.classes),
            # As they are, and as they are laid out for the device.
            weight_bytes=2 * sum((one.path / WEIGHTS).stat().st_size for one in self.bundles),
            forward_bytes=self.forward_bytes(precision),
            tile_flops=2 ** len(inference.mirror) * flops / inference.batch_size,
            num_members=len(self.bundles),
            has_weights=self.head.needs_weights,
            num_planes=self.head.num_planes,
        )

    def forward_bytes(self, precision: Precision) -> int:
        """What a forward pass of a batch takes, `auto` being what this processor computes in."""
        costs = self._pass_costs(precision)
        return self._preset_bytes() + max(cost.num_bytes for cost in costs)

    def _pass_costs(self, precision: Precision) -> list[ForwardCost]:
        """A pass of each Bundle's network."""
        roi = self.roi_zyx[3 - self.bundle.spatial_dims :]
        batch = (self.spec.inference.batch_size, self.bundle.in_channels, *roi)
        dtype = dtype_of(resolve_precision(precision, torch.device("cpu")))
        return [_pass_cost(bundle, batch, dtype) for bundle in self.bundles]

    def num_lanes(self, plan: Plan, num_cpus: int, precision: Precision | None = None) -> int:
        """Lanes of a Replica that carries out `plan`; in the Spec's precision, or another."""
        asked = self.spec.inference.precision if precision is None else precision
        return plan.lanes_within_memory(num_cpus, forward_bytes=self.forward_bytes(asked))

    def _preset_bytes(self) -> int:
        """Logits held beside those of one pass: all members', and the sum over mirror images."""
        inference, num_logits = self.spec.inference, len(self.bundles) * self.head.num_classes
        copies = 2 * (len(self.bundles) > 1) + 2 * bool(inference.mirror)
        return 4 * copies * inference.batch_size * num_logits * prod(self.roi_zyx)

    def is_published(self, info: VolumeInfo) -> bool:
        """Whether readers see exactly the Labels that this Job would make."""
        return self.target_of(info).labels.is_published()

    def record(self) -> dict[str, Json]:
        """What the Job was asked for; with which weights, each entry of its Ledger says."""
        return {
            "labels": self.spec.labels,
            "volumes": list(self.spec.volumes),
            **({"where": self.spec.where} if self.spec.where else {}),
            **({"partition": share.model_dump()} if (share := self.spec.partition) else {}),
            "model": list(self.spec.models),
            "inference": self.spec.inference.model_dump(mode="json"),
        }

    @cached_property
    def labels_classes(self) -> dict[str, tuple[LabelClass, ...]]:
        """The names of the Labels that the Job publishes, and the classes of each.

        One for all classes; where they may overlap, one for each.
        """
        name, classes = self.spec.labels, self.bundle.classes
        if self.bundle.activation == "softmax":
            return {name: classes}
        names = overlapping_names(name, classes)
        return {one: (BACKGROUND, kind) for one, kind in zip(names, classes, strict=True)}

    @property
    def labels_truths(self) -> dict[str, str]:
        """The Labels to score while the Job runs, and what against; none without a truth.

        Where classes overlap, the truth of each is `<truth>.<class>` if there is one.
        """
        truth, names = self.spec.truth, list(self.labels_classes)
        if truth is None:
            return {}
        there = {name for brief in self.volumes.briefs() for name in brief.labels}
        own = overlapping_names(truth, self.bundle.classes)
        return {
            name: one if len(names) > 1 and one in there else truth
            for name, one in zip(names, own, strict=False)
        }

    @property
    def version(self) -> str:
        """Which versions of a registry the Bundles are, joined by `+`; empty for folders."""
        versions = [model.version for model in self.models]
        return "+".join(one or "?" for one in versions) if any(versions) else ""

    @cached_property
    def _provenance(self) -> dict[str, Json]:
        """What made the Labels, the same of all Volumes."""
        return {
            "model": self.model_name,
            "bundle_hash": self.model_hash,
            **({"version": self.version} if self.version else {}),
            "inference": self.spec.inference.model_dump(mode="json"),
            **({"overlapping": True} if self.bundle.activation == "sigmoid" else {}),
            **self._members(),
        }

    def _members(self) -> dict[str, Json]:
        """The provenance of an ensemble's members."""
        if len(self.bundles) == 1:
            return {}
        members: list[Json] = [
            {"model": one.name, "bundle_hash": one.content_hash} for one in self.bundles
        ]
        return {"members": members}

    @cached_property
    def _info_by_id(self) -> dict[str, VolumeInfo]:
        return {info.id: info for info in self.infos}

    @cached_property
    def _digest(self) -> str:
        text = f"{self.model_hash} {self.spec.digest('inference')}"
        return hashlib.sha256(text.encode()).hexdigest()


_pass_costs: dict[tuple[str, tuple[int, ...], torch.dtype], ForwardCost] = {}
"""What was counted in this process: a twentieth of a second for each network."""


def _pass_cost(bundle: Bundle, batch_shape: tuple[int, ...], dtype: torch.dtype) -> ForwardCost:
    """What a forward pass of the Bundle's network takes, counted once."""
    key = (bundle.content_hash, batch_shape, dtype)
    if key not in _pass_costs:
        _pass_costs[key] = forward_cost(bundle.skeleton(), batch_shape, dtype=dtype)
    return _pass_costs[key]
