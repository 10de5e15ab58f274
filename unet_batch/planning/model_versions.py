"""What a registry knows of a model: its versions, where its champion was, how jobs name it.

liver@champion      whichever version is the champion when the job is planned
liver@7             that version, which never changes
models/liver        no `@`: the folder of a Bundle
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Literal, Self

from pydantic import Field, field_validator

from unet_batch.errors import SpecError
from unet_batch.planning.specs.base import SpecModel

CHAMPION = "champion"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_REFERENCE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)@(?P<which>[^/@\\]*)")
_SAFE_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")


class ModelReference(SpecModel):
    """A model by name; `version` is None for the champion."""

    name: str = Field(pattern=NAME_PATTERN)
    version: int | None = Field(None, ge=1)

    def __str__(self) -> str:
        return f"{self.name}@{CHAMPION if self.version is None else self.version}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The reference that `text` is; None where it is the path of a folder.

        Raises SpecError for `name@something` that is neither a number nor `champion`.

        >>> ModelReference.parse("liver@7")
        ModelReference(name='liver', version=7)
        >>> ModelReference.parse("models/liver") is None
        True
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            return None
        which = found["which"]
        if which == CHAMPION:
            return cls(name=found["name"])
        if re.fullmatch(r"[1-9][0-9]{0,8}", which):
            return cls(name=found["name"], version=int(which))
        raise SpecError(
            f"model {text!r}: after @ expected {CHAMPION} or the number of a version, such as"
            f" {found['name']}@7; a folder of that name is written ./{text}"
        )


class StoredFile(SpecModel):
    """One file of a Bundle, as it is stored."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: int = Field(ge=0)


class UsedVolume(SpecModel):
    """A Volume with its truth, as a training or a comparison used them.

    `content_hash` is the scan's, `truth_key` the generation of its mask: a truth that is
    corrected has another. `patient` is the Archive's pseudonym, empty where none is known.
    """

    volume_id: str
    content_hash: str
    truth_key: str = ""
    patient: str = ""


class DataUse(SpecModel):
    """The Volumes a version may have learnt from, and those that were held back from it."""

    train: tuple[UsedVolume, ...] = ()
    held_back: tuple[UsedVolume, ...] = ()


class ModelVersion(SpecModel):
    """One version of a model; immutable.

    Attributes
    ----------
    content_hash: of the Bundle.
    files: of the Bundle, by path within it.
    scores: figures the Bundle came with.
    data_digest: SHA-256 of the DataUse, which is stored apart: it may name thousands of Volumes.
    recipe: digest of how it was trained; empty where that is not known.
    by, at, why: who added it, when (ISO 8601, UTC), and what for.
    """

    format_version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    content_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    files: dict[str, StoredFile]
    scores: dict[str, float] = Field(default_factory=dict)
    data_digest: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    num_trained_on: int = Field(0, ge=0)
    num_held_back: int = Field(0, ge=0)
    recipe: str = ""
    by: str
    at: str
    why: str = ""

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, StoredFile]) -> dict[str, StoredFile]:
        for path in files:
            check_file_path(path)
        return files

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Move(SpecModel):
    """One move of a champion: to which version, from which, by whom, when, why, how good."""

    version: int = Field(ge=1)
    replaces: int | None = None
    kind: Literal["promote", "rollback"] = "promote"
    by: str
    at: str
    why: str = ""
    scores: dict[str, float] = Field(default_factory=dict)


class Decision(SpecModel):
    """What became of a challenger; `champion` is the version it was held against, if any."""

    version: int = Field(ge=1)
    champion: int | None
    is_promoted: bool
    reasons: tuple[str, ...]
    scores: dict[str, float] = Field(default_factory=dict)
    champion_scores: dict[str, float] = Field(default_factory=dict)
    p_value: float | None = None
    num_volumes: int = 0
    report: str = ""
    at: str = ""


def check_file_path(path: str) -> str:
    """`path` itself where a Bundle's file may have it. Raises ValueError where it may not."""
    if not _SAFE_PATH.fullmatch(path) or ".." in path or len(path) > 400:
        raise ValueError(
            f"{path[:200]!r} cannot be the path of a Bundle's file: expected letters, digits and"
            " . _ + - in each part, without '..'"
        )
    return path


def version_before(moves: Sequence[Move]) -> int | None:
    """The version to which a rollback goes: the champion before the one that stands.

    Rolled back again it goes further back, as `undo` does; None where there is nothing before.
    """
    standing: list[int] = []
    for move in moves:
        if move.kind == "rollback" and move.version in standing[:-1]:
            standing.pop()
            while standing[-1] != move.version:
                standing.pop()
        else:
            standing.append(move.version)
    return standing[-2] if len(standing) > 1 else None


def rolled_back_from(moves: Sequence[Move]) -> set[int]:
    """The versions that the latest rollbacks, one after another, took the champion from."""
    latest = takewhile(lambda move: move.kind == "rollback", reversed(moves))
    return {move.replaces for move in latest if move.replaces is not None}


def mean_score(scores: Mapping[str, float]) -> float | None:
    """The mean Dice among a version's scores, if it is known."""
    return scores.get("mean_dice")
