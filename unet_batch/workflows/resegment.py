"""Which Volumes a new champion should segment again, and doing so."""

from __future__ import annotations

from collections.abc import Sequence

from unet_batch.monitoring.events import Listener
from unet_batch.planning.model_versions import ModelVersion
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive
from unet_batch.storage.registry import Registry
from unet_batch.storage.volume import Labels
from unet_batch.workflows.segment import SegmentSummary, segment
from unet_batch.workflows.segment_job import SegmentJob


def outdated_volumes(
    spec: RetrainSpec, champion: ModelVersion, *, archive: Archive, registry: Registry
) -> tuple[str, ...]:
    """Ids of the Volumes whose `spec.published` were made by another version of the model.

    Labels of another origin (drawn by hand, or by a model of another name) are left alone.
    """
    hashes = {one.content_hash for one in registry.versions(champion.name)}
    older = hashes - {champion.content_hash}
    # Where classes overlap there are Labels for each, all made at once: the first tell.
    job = SegmentJob.open(_request(spec, ("*",), champion, archive, registry))
    infos = archive.select(("*",))
    found = archive.labels_of(infos, next(iter(job.labels_classes)))
    return tuple(
        info.id
        for info, labels in zip(infos, found, strict=True)
        if labels is not None and _made_by(labels, older)
    )


def segment_again(
    volume_ids: Sequence[str],
    spec: RetrainSpec,
    champion: ModelVersion,
    *,
    archive: Archive,
    registry: Registry,
    listen: Listener,
) -> SegmentSummary:
    """Publish `spec.published` of these Volumes anew, made by the champion."""
    request = _request(spec, volume_ids, champion, archive, registry)
    return segment(request, listen=listen)


def _request(
    spec: RetrainSpec,
    volume_ids: Sequence[str],
    champion: ModelVersion,
    archive: Archive,
    registry: Registry,
) -> SegmentSpec:
    return SegmentSpec(
        archive=archive.url,
        model=str(champion),
        registry=registry.url,
        labels=spec.published or "",
        volumes=tuple(volume_ids),
        inference=spec.inference,
        resources=spec.resources,
        trust_network=spec.train.trust_network,
    )


def _made_by(labels: Labels, hashes: set[str]) -> bool:
    return str(labels.provenance.get("bundle_hash")) in hashes
