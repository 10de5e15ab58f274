"""Which Volumes a new champion should segment again, and doing so."""

from __future__ import annotations

from unet_batch.monitoring.events import Listener
from unet_batch.planning.model_versions import ModelVersion
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive
from unet_batch.storage.registry import Registry
from unet_batch.storage.volume import Labels
from unet_batch.workflows.retrain_round import labels_of
from unet_batch.workflows.segment import SegmentSummary, segment


def outdated_volumes(
    archive: Archive, name: str, champion: ModelVersion, registry: Registry
) -> tuple[str, ...]:
    """Ids of the Volumes whose Labels `name` were made by another version of the champion's model.

    Labels of another origin (drawn by hand, or by a model of another name) are left alone.
    """
    hashes = {one.content_hash for one in registry.versions(champion.name)}
    older = hashes - {champion.content_hash}
    infos = archive.select(("*",))
    found = labels_of(archive, infos, name)
    return tuple(
        info.id
        for info, labels in zip(infos, found, strict=True)
        if labels and _made_by(labels, older)
    )


def segment_again(
    volume_ids: tuple[str, ...],
    champion: ModelVersion,
    spec: RetrainSpec,
    *,
    archive: Archive,
    registry: Registry,
    listen: Listener,
) -> SegmentSummary:
    """Publish `spec.published` of these Volumes anew, made by the champion."""
    request = SegmentSpec(
        archive=archive.url,
        model=str(champion),
        registry=registry.url,
        labels=spec.published or "",
        volumes=volume_ids,
        inference=spec.inference,
        resources=spec.resources,
    )
    return segment(request, listen=listen)


def _made_by(labels: Labels, hashes: set[str]) -> bool:
    return str(labels.provenance.get("bundle_hash")) in hashes
