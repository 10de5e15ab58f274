"""models: what people do with a registry: look, add a Bundle, move the champion and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unet_batch.errors import SpecError
from unet_batch.models.bundle import Bundle, load_bundle
from unet_batch.planning.model_versions import (
    DataUse,
    Decision,
    ModelReference,
    ModelVersion,
    Move,
    UsedVolume,
    mean_score,
)
from unet_batch.storage.registry import Registry
from unet_batch.storage.who import Note
from unet_batch.workflows.model_references import registry_at


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model of a registry: its champion (None: not yet), and how good that is."""

    name: str
    num_versions: int
    newest: int
    champion: int | None
    mean_dice: float | None
    since: str


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """One version of a model: `decision` says in a word what a retraining made of it."""

    version: str
    is_champion: bool
    mean_dice: float | None
    decision: str
    by: str
    at: str
    why: str


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """All that is known of one version, and every move of its model's champion."""

    version: ModelVersion
    is_champion: bool
    folder: str
    decision: Decision | None
    moves: tuple[Move, ...]


def list_models(registry_url: str | None) -> tuple[ModelSummary, ...]:
    """The models of a registry, by name."""
    registry = registry_at(registry_url)
    return tuple(_summary(registry, name) for name in registry.names())


def list_versions(name: str, registry_url: str | None) -> tuple[VersionSummary, ...]:
    """The versions of one model, newest first. Raises NotFoundError where there is none."""
    registry = registry_at(registry_url)
    registry.version(ModelReference(name=name, version=_newest(registry, name)))
    champion = registry.champion(name)
    standing = champion.version if champion else None
    return tuple(
        VersionSummary(
            version=str(one),
            is_champion=one.version == standing,
            mean_dice=mean_score(one.scores),
            decision=_word(registry.decision(name, one.version)),
            by=one.by,
            at=one.at,
            why=one.why,
        )
        for one in reversed(registry.versions(name))
    )


def show_version(text: str, registry_url: str | None) -> VersionDetails:
    """What is known of `name@7` or `name@champion`."""
    registry = registry_at(registry_url)
    version = registry.version(_reference(text))
    champion = registry.champion(version.name)
    return VersionDetails(
        version=version,
        is_champion=champion is not None and champion.version == version.version,
        folder=f"{registry.url}/{registry.bundle_path(version)}",
        decision=registry.decision(version.name, version.version),
        moves=tuple(registry.moves(version.name)),
    )


def add_model(
    name: str,
    folder: Path,
    *,
    registry_url: str | None,
    why: str = "",
    trust_network: bool = False,
) -> ModelVersion:
    """Make the Bundle in `folder` the next version of `name`; the registry is begun if need be.

    Raises BundleError where the folder holds no Bundle that can be loaded.
    """
    bundle = load_bundle(folder, trust_network=trust_network)
    registry = registry_at(registry_url, create=True)
    return registry.add(
        name,
        folder,
        content_hash=bundle.content_hash,
        note=Note.now(why),
        scores=bundle.scores,
        data=data_of(bundle),
    )


def promote_model(text: str, *, registry_url: str | None, why: str = "") -> Move:
    """Make `name@7` the champion. Raises ConflictError where another moved it meanwhile."""
    registry = registry_at(registry_url)
    reference = _reference(text)
    standing = registry.champion(reference.name)
    version = registry.version(reference)
    replaces = standing.version if standing else None
    return registry.promote(version, replaces=replaces, note=Note.now(why))


def roll_back_model(name: str, *, registry_url: str | None, why: str = "") -> Move:
    """Make the champion before the present one the champion of `name` again."""
    return registry_at(registry_url).roll_back(name, note=Note.now(why))


def data_of(bundle: Bundle) -> DataUse:
    """What a Bundle says of the Volumes it was trained on, and of those held back from it."""
    train, held_back = (
        tuple(
            UsedVolume(volume_id=k, content_hash=v, truth_key=bundle.truth_keys.get(k, ""))
            for k, v in hashes.items()
        )
        for hashes in (bundle.data_hashes, bundle.held_back_hashes)
    )
    return DataUse(train=train, held_back=held_back)


def _summary(registry: Registry, name: str) -> ModelSummary:
    versions, champion = registry.versions(name), registry.champion(name)
    return ModelSummary(
        name=name,
        num_versions=len(versions),
        newest=versions[-1].version if versions else 0,
        champion=champion.version if champion else None,
        mean_dice=mean_score(champion.scores) if champion else None,
        since=champion.at if champion else "",
    )


def _newest(registry: Registry, name: str) -> int:
    return max((one.version for one in registry.versions(name)), default=1)


def _reference(text: str) -> ModelReference:
    reference = ModelReference.parse(text)
    if reference is None:
        raise SpecError(f"{text!r}: expected a version, such as liver@7 or liver@champion")
    return reference


def _word(decision: Decision | None) -> str:
    if decision is None:
        return ""
    return "promoted" if decision.is_promoted else "refused"
