"""Spec: an immutable, validated request, read from YAML and overridden field by field."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from unet_batch.errors import SpecError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(value: object) -> object:
    """Bytes of `4GiB`, `500 MB` or a plain number; anything else is left to pydantic."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", value)
    if not found or found[2].upper() not in _UNITS:
        units = ", ".join(filter(None, _UNITS))
        raise ValueError(f"expected a number with a unit ({units}), such as 4GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class SpecModel(BaseModel):
    """Base of every Spec and of its parts: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def digest(self, *fields: str) -> str:
        """16 hex digits over `fields` (all of them where none is named)."""
        content = self.model_dump(mode="json", include=set(fields) or None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        overrides: Iterable[str] = (),
    ) -> Self:
        """The Spec of a YAML file, then `arguments` that are not None, then `key=value` overrides.

        Raises SpecError with the field, what was expected and what was given.
        """
        content = read_fields(path, arguments=arguments, overrides=overrides)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise SpecError(_explain(cls, error, path)) from error


AnySpec = TypeVar("AnySpec", bound=SpecModel)


def read_fields(
    path: Path | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """The fields of a YAML file, then `arguments` that are not None, then `key=value` overrides.

    Nothing is known yet of the Spec that they are for. Raises SpecError where they are no fields.
    """
    content = _read_yaml(path) if path else {}
    for key, value in (arguments or {}).items():
        if value is not None:
            _assign(content, key, value)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise SpecError(f"--set {override!r}: expected key=value, e.g. training.steps=500")
        _assign(content, key.strip(), yaml.safe_load(text))
    return content


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"no Spec at {path}; `jobs/` holds a ready one for each job") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path} is not a readable YAML file: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected `field: value` lines, got {type(content).__name__}")
    return content


def _assign(content: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        child = content.setdefault(key, {})
        if not isinstance(child, dict):
            raise SpecError(f"--set {dotted}: {key!r} holds {child!r}, not a group of fields")
        content = child
    content[last] = value


def _explain(cls: type[SpecModel], error: ValidationError, path: Path | None) -> str:
    where = f" in {path}" if path else ""
    lines = [f"{cls.__name__}{where} is not valid:"]
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        got = "" if item["type"] == "missing" else f" (got {item['input']!r})"
        lines.append(f"  {field}: {item['msg']}{got}")
    return "\n".join(lines)
