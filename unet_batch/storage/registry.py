"""Registry: versions of models by name, and which version of each is the champion.

    REGISTRY/
    ├── registry.json                   format and version
    └── models/<name>/
        ├── bundles/<content hash>/     Bundles, as MONAI's tools read them; never changed
        ├── versions/00000007.json      what version 7 is: put once, never changed
        ├── data/<digest>.json          the Volumes a version used
        ├── decisions/00000007.json     why it was promoted by a retraining, or not
        ├── champion.jsonl              every move of the champion; the last line is where it is
        ├── round.json                  what the latest retraining has collected
        └── lease.json                  who is retraining

A version is a single put of its document, after all its files are stored; the champion moves
by compare-and-swap of a file that only grows. So whatever crashes, and however many write at
once, a version is whole or absent, and of two promotions one wins and the other is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from unet_batch.errors import ConflictError, NotFoundError, SpecError, StoreError
from unet_batch.planning.model_versions import (
    DataUse,
    Decision,
    ModelReference,
    ModelVersion,
    Move,
    StoredFile,
    check_file_path,
    version_before,
)
from unet_batch.planning.specs.base import SpecModel
from unet_batch.side_by_side import each
from unet_batch.storage import ome_zarr, paths
from unet_batch.storage.object_store import ObjectStore
from unet_batch.storage.stores import open_store
from unet_batch.storage.who import Note

FORMAT = "unet-batch registry"
FORMAT_VERSION = 1
DOCUMENT = "registry.json"

AnyRecord = TypeVar("AnyRecord", bound=SpecModel)


def open_registry(url: str | Path, *, create: bool = False) -> Registry:
    """The Registry at `url`: a path, file://, memory://, s3://, gs:// or az://.

    With `create` one is begun where none is. Raises NotFoundError where there is none,
    StoreError where it is of a kind this version cannot read.
    """
    store = open_store(url)
    if create:
        with suppress(ConflictError):  # it is there already: checked below
            store.put_if_absent(
                DOCUMENT, ome_zarr.to_bytes({"format": FORMAT, "version": FORMAT_VERSION})
            )
    try:
        document = ome_zarr.read_document(store.get(DOCUMENT), f"{store.url}/{DOCUMENT}")
    except NotFoundError as error:
        raise NotFoundError(
            f"no registry at {store.url}; `unet-batch models add NAME FOLDER --registry"
            f" {store.url}` begins one"
        ) from error
    if (document.get("format"), document.get("version")) != (FORMAT, FORMAT_VERSION):
        raise StoreError(
            f"{store.url}/{DOCUMENT}: expected {FORMAT!r} of version {FORMAT_VERSION}, got"
            f" {document.get('format')!r} of version {document.get('version')!r}"
        )
    return Registry(store)


class Registry:
    """The models at one address. Open one with `open_registry`."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    @property
    def url(self) -> str:
        """The address, absolute."""
        return self.store.url

    def names(self) -> list[str]:
        """The names of all models, sorted."""
        return self.store.list_folders("models")

    def add(
        self,
        name: str,
        folder: Path,
        *,
        content_hash: str,
        note: Note,
        scores: Mapping[str, float] | None = None,
        data: DataUse | None = None,
        recipe: str = "",
    ) -> ModelVersion:
        """Store the Bundle in `folder`, whose hash is `content_hash`, as the next version.

        A Bundle that is a version of `name` already stays that version. Raises SpecError for a
        name or a file's path that cannot be stored, StoreError where the folder is unreadable.
        """
        for known in self.versions(name):
            if known.content_hash == content_hash:
                return known
        files = self._upload(_bundle_path(name, content_hash), folder)
        data = data or DataUse()
        digest = self._put_data(name, data)
        version = ModelVersion(
            name=name,
            version=max(self._numbers(name), default=0) + 1,
            content_hash=content_hash,
            files=files,
            scores=dict(scores or {}),
            data_digest=digest,
            num_trained_on=len(data.train),
            num_held_back=len(data.held_back),
            recipe=recipe,
            **note._asdict(),
        )
        return self._put_next(version)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, oldest first; none where there is no such model."""
        return each(lambda number: self._version(name, number), self._numbers(name))

    def data(self, version: ModelVersion) -> DataUse:
        """The Volumes that `version` learnt from, and those held back from it.

        Raises StoreError where they are not what was stored.
        """
        path = _data_path(version.name, version.data_digest)
        content = self.store.get(path)
        if hashlib.sha256(content).hexdigest() != version.data_digest:
            raise StoreError(f"{self.url}/{path} is not what was stored: put it back")
        return _parse(content, DataUse, f"{self.url}/{path}")

    def version(self, reference: ModelReference) -> ModelVersion:
        """The version that `reference` means now.

        Raises NotFoundError where there is no such model, version, or no champion yet.
        """
        numbers = self._numbers(reference.name)
        if not numbers:
            known = ", ".join(self.names()) or "none"
            raise NotFoundError(
                f"no model {reference.name!r} in the registry {self.url}; it has: {known}"
            )
        number = reference.version
        if number is None:
            champion = self.champion(reference.name)
            if champion is None:
                raise NotFoundError(
                    f"{reference}: the model has no champion yet in {self.url}, only versions up"
                    f" to {numbers[-1]}; name one, such as {reference.name}@{numbers[-1]}, or"
                    f" `unet-batch models promote {reference.name}@{numbers[-1]}`"
                )
            number = champion.version
        if number not in numbers:
            raise NotFoundError(
                f"{reference}: no such version in {self.url}; the newest of {len(numbers)} is"
                f" {reference.name}@{numbers[-1]}"
            )
        return self._version(reference.name, number)

    def champion(self, name: str) -> Move | None:
        """The move that made the champion of `name` what it is; None where it has none."""
        moves = self.moves(name)
        return moves[-1] if moves else None

    def moves(self, name: str) -> list[Move]:
        """Every move of the champion, oldest first."""
        try:
            content = self.store.get(_champion_path(name))
        except NotFoundError:
            return []
        return self._moves(name, content)

    def promote(
        self,
        version: ModelVersion,
        *,
        replaces: int | None,
        note: Note,
        scores: Mapping[str, float] | None = None,
    ) -> Move:
        """Make `version` the champion, in place of the version `replaces` (None: the first).

        Nothing changes where it is the champion already. Raises ConflictError where the
        champion is another than `replaces` by now: look at it, and decide again.
        """
        move = Move(
            version=version.version,
            replaces=replaces,
            scores=dict(version.scores if scores is None else scores),
            **note._asdict(),
        )
        return self._move(version.name, move)

    def roll_back(self, name: str, *, note: Note) -> Move:
        """Make the champion before the present one the champion again.

        Raises SpecError where there was none, ConflictError where another was faster.
        """
        moves = self.moves(name)
        target = version_before(moves)
        if target is None:
            raise SpecError(
                f"{name}: the champion of {self.url} cannot be rolled back, it had"
                f" {'none before' if moves else 'none yet'}"
            )
        reference = ModelReference(name=name, version=target)
        scores = self.version(reference).scores
        return self._move(
            name,
            Move(
                version=target,
                replaces=moves[-1].version,
                kind="rollback",
                scores=scores,
                **note._asdict(),
            ),
        )

    def decide(self, name: str, decision: Decision) -> Decision:
        """Keep what became of a challenger; what was decided first stands, and is returned."""
        path = _decision_path(name, decision.version)
        try:
            self._put_once(path, decision)
        except ConflictError:
            return self._read(path, Decision)
        return decision

    def decision(self, name: str, version: int) -> Decision | None:
        """What became of a challenger; None where nothing was decided on it."""
        try:
            return self._read(_decision_path(name, version), Decision)
        except NotFoundError:
            return None

    def bundle_path(self, version: ModelVersion) -> str:
        """The folder of a version's Bundle, within the store."""
        return _bundle_path(version.name, version.content_hash)

    def model_path(self, name: str, file: str) -> str:
        """Where a file that concerns the model `name` lies, within the store."""
        return f"{_model_path(name)}/{file}"

    def _move(self, name: str, move: Move) -> Move:
        path = _champion_path(name)
        line = move.model_dump_json().encode() + b"\n"
        try:
            content, token = self.store.get_versioned(path)
        except NotFoundError:
            self._check_champion(name, None, move)
            self._swap(name, lambda: self.store.put_if_absent(path, line))
            return move
        standing = self._moves(name, content)[-1]
        if standing.version == move.version:
            return standing
        self._check_champion(name, standing, move)
        self._swap(name, lambda: self.store.compare_and_swap(path, content + line, token))
        return move

    def _check_champion(self, name: str, standing: Move | None, move: Move) -> None:
        if (standing.version if standing else None) != move.replaces:
            raise ConflictError(self._overtaken(name, standing, move.replaces))

    def _swap(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
        except ConflictError as error:
            standing = self.champion(name)
            raise ConflictError(self._overtaken(name, standing, None)) from error

    def _overtaken(self, name: str, standing: Move | None, expected: int | None) -> str:
        now = "none"
        if standing is not None:
            now = f"{name}@{standing.version} (by {standing.by}, {standing.at})"
        was = "" if expected is None else f" in place of {name}@{expected}"
        return (
            f"{name}: the champion in {self.url} was moved by another meanwhile: it is {now}"
            f"{was}. Nothing was changed; look at it and decide again"
        )

    def _moves(self, name: str, content: bytes) -> list[Move]:
        where = f"{self.url}/{_champion_path(name)}"
        return [_parse(line, Move, where) for line in content.splitlines()]

    def _version(self, name: str, number: int) -> ModelVersion:
        return self._read(_version_path(name, number), ModelVersion)

    def _numbers(self, name: str) -> list[int]:
        found = self.store.list_objects(f"{_model_path(name)}/versions")
        names = [path.rpartition("/")[2].removesuffix(".json") for path in found]
        return sorted(int(one) for one in names if one.isdecimal())

    def _upload(self, path: str, folder: Path) -> dict[str, StoredFile]:
        """Store all files of a Bundle; what lies there already is left as it is."""
        files = {}
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            relative = file.relative_to(folder)
            if any(part.startswith(".") for part in relative.parts):
                continue
            try:
                name, content = check_file_path(relative.as_posix()), file.read_bytes()
            except ValueError as error:
                raise SpecError(f"{folder}: {error}; rename or remove it") from error
            except OSError as error:
                raise StoreError(f"{file} cannot be read: {error.strerror or error}") from error
            with suppress(ConflictError):
                self.store.put_if_absent(f"{path}/{name}", content)
            stored = self.store.get(f"{path}/{name}")
            digest = hashlib.sha256(stored).hexdigest()
            files[name] = StoredFile(sha256=digest, num_bytes=len(stored))
        return files

    def _put_next(self, version: ModelVersion) -> ModelVersion:
        """Put a version under its number, or under the next that nobody has taken meanwhile."""
        while True:
            try:
                self._put_once(_version_path(version.name, version.version), version)
            except ConflictError:
                version = version.model_copy(update={"version": version.version + 1})
                continue
            return version

    def _put_data(self, name: str, data: DataUse) -> str:
        content = data.model_dump_json().encode()
        digest = hashlib.sha256(content).hexdigest()
        with suppress(ConflictError):  # named by content: what is there is the same
            self.store.put_if_absent(_data_path(name, digest), content)
        return digest

    def _put_once(self, path: str, record: SpecModel) -> None:
        self.store.put_if_absent(path, record.model_dump_json(indent=2).encode() + b"\n")

    def _read(self, path: str, kind: type[AnyRecord]) -> AnyRecord:
        return _parse(self.store.get(path), kind, f"{self.url}/{path}")


def _parse(content: bytes, kind: type[AnyRecord], where: str) -> AnyRecord:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(
            f"{where} is damaged, or was written by a newer unet-batch: {error}"
        ) from error


def _model_path(name: str) -> str:
    return f"models/{paths.check_name(name, what='name of a model')}"


def _bundle_path(name: str, content_hash: str) -> str:
    return f"{_model_path(name)}/bundles/{content_hash}"


def _version_path(name: str, number: int) -> str:
    return f"{_model_path(name)}/versions/{number:08d}.json"


def _data_path(name: str, digest: str) -> str:
    return f"{_model_path(name)}/data/{digest}.json"


def _decision_path(name: str, number: int) -> str:
    return f"{_model_path(name)}/decisions/{number:08d}.json"


def _champion_path(name: str) -> str:
    return f"{_model_path(name)}/champion.jsonl"
