"""Kinds of Job: which Spec each has, what tells one Job from another, what a file is for."""

from __future__ import annotations

import hashlib
import json
import os.path
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unet_batch.errors import SpecError
from unet_batch.planning.specs.base import SpecModel, read_fields
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.specs.train import TrainSpec


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of Job.

    Attributes
    ----------
    spec: its Spec.
    means: fields that never change what comes out, and do not tell one Job from another.
    named: the field that its id shows to a person.
    places: fields that hold a path or URL, a list or a mapping of them.
    private: fields that may name a patient, and are not kept with the data.
    """

    spec: type[SpecModel]
    means: frozenset[str] = frozenset()
    named: str = ""
    places: tuple[str, ...] = ("archive", "out")
    private: tuple[str, ...] = ()


KINDS: Mapping[str, JobKind] = {
    "ingest": JobKind(
        IngestSpec,
        means=frozenset({"staging", "timeout_s", "window", "allow_quarantined"}),
        places=("archive", "sources", "truth"),
        private=("sources", "truth", "exclude"),
    ),
    "segment": JobKind(
        SegmentSpec,
        means=frozenset(
            {"resources", "allow_quarantined", "truth", "metrics_port", "metrics_address"}
        ),
        named="labels",
        places=("archive", "model", "registry"),
    ),
    "evaluate": JobKind(EvaluateSpec, means=frozenset({"window"}), named="labels"),
    "report": JobKind(ReportSpec, means=frozenset({"window"}), named="labels"),
    "export": JobKind(ExportSpec, named="labels", places=("archive", "out", "dicom_series")),
    "train": JobKind(TrainSpec, means=frozenset({"resources"}), named="truth"),
    "retrain": JobKind(
        RetrainSpec,
        means=frozenset({"resources", "lease", "max_pictures"}),
        named="model",
        places=("archive", "registry", "work"),
    ),
}
"""Every kind of Job that works on one Archive."""


def load_any(
    path: Path, *, kind: str | None = None, overrides: Iterable[str] = ()
) -> tuple[str, SpecModel]:
    """The Spec of a file, and what kind of Job it is for.

    The kind is the one whose Spec the fields fit; where several do, the file's own name decides,
    as in `jobs/evaluate.yaml`. Raises SpecError where none fits, or it cannot be told.
    """
    overrides = tuple(overrides)
    if kind is not None:
        return kind, kind_of(kind).spec.load(path, overrides=overrides)
    fields = read_fields(path, overrides=overrides)
    fitting = {name: spec for name in KINDS if (spec := _fit(name, fields)) is not None}
    if len(fitting) != 1 and path.stem in KINDS:
        return path.stem, KINDS[path.stem].spec.load(path, overrides=overrides)
    if not fitting:
        raise SpecError(
            f"{path}: its fields ({', '.join(fields) or 'none'}) fit no kind of Job; say which it"
            f" is for, and what is wrong will be said: --kind {'|'.join(KINDS)}"
        )
    if len(fitting) > 1:
        raise SpecError(
            f"{path}: it may be for {' or '.join(fitting)}; say which: --kind {next(iter(fitting))}"
        )
    return next(iter(fitting.items()))


def kind_of(name: str) -> JobKind:
    """The JobKind of this name. Raises SpecError where there is none."""
    if name not in KINDS:
        raise SpecError(f"--kind {name!r}: expected one of {', '.join(KINDS)}")
    return KINDS[name]


def job_id(kind: str, spec: SpecModel) -> str:
    """Name of the Job that a Spec asks for: the same request on the same Archive is the same Job.

    What decides is every field but the means, with paths made absolute, and of the Archive's
    address the last part: it may be mounted elsewhere tomorrow. The weights do not count: trained
    anew, the same Job redoes what they change. Nor do fields that are as a Spec has them by
    itself: a later version of this program may have more of them.
    """
    form = kind_of(kind)
    fields = anchored(kind, spec).model_dump(
        mode="json", exclude=set(form.means), exclude_defaults=True
    )
    fields["archive"] = fields["archive"].rstrip("/").rpartition("/")[2]
    content = json.dumps({"kind": kind, **fields}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    named = str(fields.get(form.named) or "")[:64]
    return "-".join(filter(None, (kind, named, digest)))


def anchored(kind: str, spec: SpecModel) -> SpecModel:
    """The Spec with its paths absolute, so that it says the same in another folder."""
    fields = spec.model_dump(mode="json")
    for place in kind_of(kind).places:
        fields[place] = _absolute(fields[place])
    return type(spec).model_validate(fields)


def kept_fields(kind: str, spec: SpecModel) -> dict[str, Any]:
    """The fields of a Spec that are kept with the data.

    Folders and files of scans are often called by a patient's name: where a Spec reads from them
    they are left out, unless it keeps identifiers anyway.
    """
    fields = spec.model_dump(mode="json")
    private = () if fields.get("keep_identifiers") else kind_of(kind).private
    return {name: value for name, value in fields.items() if name not in private}


def _fit(kind: str, fields: Mapping[str, Any]) -> SpecModel | None:
    try:
        return KINDS[kind].spec.model_validate(fields)
    except ValidationError:
        return None


def _absolute(value: Any) -> Any:
    """A path as it reads from any folder; URLs, patterns and names of other things unchanged."""
    if isinstance(value, list):
        return [_absolute(one) for one in value]
    if isinstance(value, dict):
        return {key: _absolute(one) for key, one in value.items()}
    if not isinstance(value, str) or "://" in value or "@" in value or value.startswith("{"):
        return value
    return os.path.abspath(Path(value).expanduser())  # noqa: PTH100 - no look at the disk
