"""What a retraining works on: collected once, kept in the registry until it is decided.

Labels come in while a retraining runs or lies crashed. What it collected when it began stays
what it is about, so that its training goes on from its checkpoint instead of from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from unet_batch.errors import NotFoundError, SpecError, StoreError
from unet_batch.planning.model_versions import (
    ModelReference,
    ModelVersion,
    UsedVolume,
    rolled_back_from,
)
from unet_batch.planning.retraining import (
    Round,
    new_since,
    request_digest,
    split,
    why_not_to_train,
)
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.storage.archive import Archive
from unet_batch.storage.registry import Registry


def collect(archive: Archive, spec: RetrainSpec) -> list[UsedVolume]:
    """The selected Volumes that have the truth, by id.

    Raises SpecError where there is none.
    """
    infos = archive.select(spec.volumes, spec.where)
    found = archive.labels_of(infos, spec.truth)
    used = [
        UsedVolume(
            volume_id=info.id,
            content_hash=info.content_hash,
            truth_key=labels.key,
            patient=info.patient,
        )
        for info, labels in zip(infos, found, strict=True)
        if labels is not None
    ]
    if not used:
        raise SpecError(
            f"none of the {len(infos)} Volumes selected in {spec.archive} has Labels"
            f" {spec.truth!r}; ingest them with --truth {spec.truth}=DIR"
        )
    return used


def begin_round(
    spec: RetrainSpec, volumes: Sequence[UsedVolume], registry: Registry
) -> Round | str:
    """The Round to go on with, the one to begin, or why there is nothing to train on.

    Raises SpecError where the Volumes leave nothing to learn from or to be judged on.
    """
    champion, request = champion_of(registry, spec.model), request_digest(spec)
    begun = read_round(registry, spec.model)
    standing = champion.version if champion else None
    if begun is not None and begun.request == request and _goes_on(begun, volumes, standing):
        return begun
    used = {f"{champion}, the champion": registry.data(champion)} if champion else {}
    known = next(iter(used.values()), None)
    beaten = _beaten(registry, spec.model, request, standing)
    if beaten is not None:
        version, how = beaten
        used[f"{version}, {how}"] = registry.data(version)
    reason = why_not_to_train(spec, volumes, known=used)
    if reason is not None:
        return reason
    return Round(
        request=request,
        champion=standing,
        data=split(volumes, spec.held_back, known=known),
        num_new=len(new_since(volumes, known)),
    )


def _goes_on(begun: Round, volumes: Sequence[UsedVolume], standing: int | None) -> bool:
    """Whether a Round can still be finished: its Volumes are there, and its champion stands.

    Where its own challenger is the champion by now, it crashed behind the promotion.
    """
    there = {one.volume_id for one in volumes}
    used = {one.volume_id for one in (*begun.data.train, *begun.data.held_back)}
    is_standing = standing in (begun.champion, begun.challenger)
    return not begun.is_finished and used <= there and is_standing


def champion_of(registry: Registry, name: str) -> ModelVersion | None:
    """The champion's version; None where the model has none yet."""
    move = registry.champion(name)
    return registry.version(ModelReference(name=name, version=move.version)) if move else None


def read_round(registry: Registry, name: str) -> Round | None:
    """The latest Round of a model; None before the first."""
    path = registry.model_path(name, "round.json")
    try:
        return Round.model_validate_json(registry.store.get(path))
    except NotFoundError:
        return None
    except ValidationError as error:
        raise StoreError(
            f"{registry.url}/{path} is damaged ({error}); remove it, and the retraining under way"
            " is begun anew"
        ) from error


def write_round(registry: Registry, name: str, current: Round) -> None:
    """Keep a Round. For the holder of the lease."""
    content = current.model_dump_json().encode() + b"\n"
    registry.store.put(registry.model_path(name, "round.json"), content)


def _beaten(
    registry: Registry, name: str, request: str, standing: int | None
) -> tuple[ModelVersion, str] | None:
    """The latest version of the same request that gave way to the champion, and how.

    A retraining refused it, or a person rolled back from it: the same Volumes would only make
    the same version again.
    """
    rolled_back = rolled_back_from(registry.moves(name))
    for version in reversed(registry.versions(name)):
        if version.recipe != request:
            continue
        if version.version in rolled_back:
            return version, "which was rolled back"
        decision = registry.decision(name, version.version)
        if decision and not decision.is_promoted and decision.champion == standing:
            return version, "a challenger already refused"
    return None
