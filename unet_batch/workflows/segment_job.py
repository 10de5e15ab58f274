"""SegmentJob: a SegmentSpec with all that it names opened; what `segment` and `plan` share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from unet_batch.errors import BundleError
from unet_batch.inference.driver import Target
from unet_batch.inference.predictor import label_dtype
from unet_batch.models.bundle import WEIGHTS, Bundle, load_bundle
from unet_batch.models.footprint import activation_bytes
from unet_batch.models.precision import resolve_precision
from unet_batch.planning.cost import ModelCost
from unet_batch.planning.plan import Plan, Planner, Shape3
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import Json, VolumeInfo
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.labels_writer import LabelsWriter


@dataclass(frozen=True)
class SegmentJob:
    """A SegmentSpec with what it names opened: the Archive, the Bundle, and on demand Volumes."""

    spec: SegmentSpec
    archive: Archive
    bundle: Bundle

    @classmethod
    def open(cls, spec: SegmentSpec) -> SegmentJob:
        """Raises NotFoundError, BundleError or SpecError where something named is not there."""
        archive, bundle = open_archive(spec.archive), load_bundle(spec.model)
        archive.check_patterns(spec.volumes)
        return cls(spec, archive, bundle)

    @cached_property
    def infos(self) -> list[VolumeInfo]:
        """The chosen Volumes, by id."""
        return self.archive.select(self.spec.volumes, self.spec.where)

    @property
    def id(self) -> str:
        """Name of the Job: the same request on the same Archive is the same Job."""
        content = json.dumps(self.record(), sort_keys=True).encode()
        return f"segment-{self.spec.labels}-{hashlib.sha256(content).hexdigest()[:8]}"

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

    def key(self, info: VolumeInfo) -> str:
        """Generation of a Volume's Labels: a digest of all that decides their bytes."""
        text = f"{info.content_hash} {self._digest}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def target(self, volume_id: str) -> Target:
        """Where a Volume's Labels go. The provenance holds no time: bytes must repeat."""
        info = self._info_by_id[volume_id]
        classes = self.bundle.classes
        writer = LabelsWriter.for_volume(
            self.archive.url,
            info,
            name=self.spec.labels,
            classes=classes,
            key=self.key(info),
            dtype=label_dtype([one.value for one in classes]).name,
        )
        return Target(
            writer,
            {
                "model": self.bundle.name,
                "bundle_hash": self.bundle.content_hash,
                "input_hash": info.content_hash,
                "inference": self.spec.inference.model_dump(mode="json"),
            },
        )

    def plan(self, infos: Sequence[VolumeInfo], *, num_replicas: int) -> Plan:
        """The Plan of some of the Volumes; few large ones are cut to share them out."""
        return Plan(self.planner(len(infos), num_replicas=num_replicas), infos)

    def planner(self, num_volumes: int, *, num_replicas: int) -> Planner:
        """The rules by which `num_volumes` Volumes are cut for `num_replicas` Replicas."""
        return Planner(
            self.spec.inference,
            self.roi_zyx,
            self.model_cost(),
            self.bundle.channels,
            self.spec.resources.memory_budget,
            min_sweeps=-(-num_replicas // max(1, num_volumes)),
        )

    def model_cost(self) -> ModelCost:
        """What the Bundle's network weighs in memory, per batch of tiles."""
        inference, roi = self.spec.inference, self.roi_zyx[3 - self.bundle.spatial_dims :]
        precision = resolve_precision(inference.precision, torch.device("cpu"))
        batch = (inference.batch_size, self.bundle.in_channels, *roi)
        return ModelCost(
            num_channels=self.bundle.in_channels,
            num_classes=len(self.bundle.classes),
            weight_bytes=(self.bundle.path / WEIGHTS).stat().st_size,
            forward_bytes=activation_bytes(
                self.bundle.network(),
                batch,
                dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            ),
        )

    def is_published(self, info: VolumeInfo) -> bool:
        """Whether readers see exactly the Labels that this Job would make."""
        return self.target(info.id).writer.published_key() == self.key(info)

    def record(self) -> dict[str, Json]:
        """What the Job is: all that its id is a digest of."""
        return {
            "labels": self.spec.labels,
            "volumes": list(self.spec.volumes),
            **({"where": self.spec.where} if self.spec.where else {}),
            "bundle": self.bundle.name,
            "bundle_hash": self.bundle.content_hash,
            "inference": self.spec.inference.model_dump(mode="json"),
        }

    @cached_property
    def _info_by_id(self) -> dict[str, VolumeInfo]:
        return {info.id: info for info in self.infos}

    @cached_property
    def _digest(self) -> str:
        text = f"{self.bundle.content_hash} {self.spec.digest('inference')}"
        return hashlib.sha256(text.encode()).hexdigest()
