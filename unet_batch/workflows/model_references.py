"""What `liver@champion` means in a Job: settled once, and the same when the Job is resumed.

A champion may move while a Job is under way, or between a crash and the next run. What a
request was begun with is noted in the Archive; until that run has ended, the same request goes
on with the same version. A request that names a number, or a folder, needs no note.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_batch.errors import ConflictError, NotFoundError, SpecError
from unet_batch.planning.model_versions import ModelReference
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage import ome_zarr
from unet_batch.storage.bundle_cache import address_of
from unet_batch.storage.registry import Registry, open_registry
from unet_batch.storage.stores import open_store

VARIABLE = "UNET_BATCH_REGISTRY"
"""In the environment: the registry of all commands that name no other."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model as workers find it.

    `asked` is what the Spec says, `version` the concrete version it means (empty for a folder).
    `moved_to` says it where the champion is another by now than the run was begun with.
    """

    asked: str
    address: str
    version: str = ""
    moved_to: str = ""


def registry_at(url: str | None, *, create: bool = False) -> Registry:
    """The registry at `url`, or at that of the environment. Raises SpecError without either."""
    address = url or os.environ.get(VARIABLE)
    if not address:
        raise SpecError(
            f"no registry is named: give --registry URL, or set {VARIABLE} in the environment"
        )
    return open_registry(address, create=create)


def resolve_models(spec: SegmentSpec) -> tuple[ResolvedModel, ...]:
    """The models of `spec`, those of a run of the same request that has not ended where there is.

    Raises SpecError, NotFoundError or StoreError where a reference means nothing.
    """
    begun = ModelNote.of(spec).read()
    return tuple(_resolve(asked, spec.registry, begun) for asked in spec.models)


def resolve_model(asked: str, registry_url: str | None) -> ResolvedModel:
    """What `asked` means now. Raises as `resolve_models`."""
    return _resolve(asked, registry_url, {})


def _resolve(asked: str, registry_url: str | None, begun: Mapping[str, str]) -> ResolvedModel:
    reference = ModelReference.parse(asked) if not _is_folder(asked) else None
    if reference is None:
        return ResolvedModel(asked, asked)
    registry, moved_to = registry_at(registry_url), ""
    if asked in begun:
        now, reference = (
            registry.version(reference),
            ModelReference.parse(begun[asked]) or reference,
        )
        if str(now) != str(reference):
            moved_to = (
                f"this request was begun with {reference} and goes on with it; {asked} is {now} by"
                f" now. Name {now} to begin anew"
            )
    version = registry.version(reference)
    return ResolvedModel(asked, address_of(registry, version), str(version), moved_to)


def _is_folder(asked: str) -> bool:
    """Whether a folder has the name; SpecError where that name could be a version's too."""
    if "@" not in asked or "/" in asked or not Path(asked).is_dir():
        return False
    try:
        is_reference = ModelReference.parse(asked) is not None
    except SpecError:
        return True
    if is_reference:
        raise SpecError(
            f"model {asked!r} is a folder here, and could be a version in a registry: write"
            f" ./{asked} for the folder, or run where no folder has that name"
        )
    return True


@dataclass(frozen=True, slots=True)
class ModelNote:
    """What a request that names champions was begun with, kept in its Archive.

    Several drivers may each do a share of the request; all of them go by one note.
    """

    archive: str
    path: str
    share: int = 0
    num_shares: int = 1

    @classmethod
    def of(cls, spec: SegmentSpec) -> ModelNote:
        """The note of the request `spec`; without a path where it names no champion."""
        asked = [one for one in spec.models if one.endswith("@champion")]
        fields = ("model", "labels", "volumes", "where", "inference", "registry")
        path = f"references/{spec.digest(*fields)}.json" if asked else ""
        part = spec.partition
        return cls(spec.archive, path, part.index, part.of) if part else cls(spec.archive, path)

    def read(self) -> dict[str, str]:
        """The version by what was asked for, of a run that has not ended; else nothing."""
        if not self.path:
            return {}
        try:
            content = open_store(self.archive).get(self.path)
        except NotFoundError:
            return {}
        return self._models(content)

    def begin(self, models: Sequence[ResolvedModel]) -> None:
        """Note that a run begins with `models`.

        Raises ConflictError where another run of the request began with others just now.
        """
        mine = {one.asked: one.version for one in models if one.version}
        if not self.path:
            return
        open_store(self.archive).update(
            self.path,
            lambda old: old if old and self._models(old) else _document(mine, []),
        )
        begun = self.read()
        if begun != mine:
            raise ConflictError(
                f"another run of this request has just begun with {begun}, this one with {mine}:"
                " the champion moved in between. Run it again, and it joins in"
            )

    def finish(self) -> None:
        """Note that the run, or its share, has ended: when all have, the champion counts again."""
        if self.path:
            open_store(self.archive).update(self.path, self._with_share)

    def _with_share(self, old: bytes | None) -> bytes:
        content = old or b"{}"
        ended = {*self._document(content).get("ended", []), self.share}
        return _document(self._models(content), sorted(ended))

    def _models(self, content: bytes) -> dict[str, str]:
        document = self._document(content)
        if len(document.get("ended", [])) >= self.num_shares:
            return {}
        return {str(asked): str(one) for asked, one in document.get("models", {}).items()}

    def _document(self, content: bytes) -> dict[str, Any]:
        return ome_zarr.read_document(content, f"{self.archive}/{self.path}")


def _document(models: Mapping[str, str], ended: Sequence[int]) -> bytes:
    return ome_zarr.to_bytes({"models": dict(models), "ended": list(ended)})
