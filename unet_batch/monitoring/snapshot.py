"""Snapshots: the Progress of a Job as plain values, which its driver keeps with the data.

From them any machine draws what the driver draws, and prints the same as JSON. A snapshot has a
bounded size, however many Volumes there are, and is read by other versions of this program too:
what they do not know is left out, what is missing is as at the start of a Job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from typing import Any

from unet_batch.monitoring.events import TrainStep, Validated
from unet_batch.monitoring.tally import Failure, Progress


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """Every figure of the live view, and the Volumes that are left. NaN becomes null."""
    plain: dict[str, Any] = _plain(asdict(progress))
    return {**plain, "volumes_left": progress.volumes_left}


def progress_from_json(content: Mapping[str, Any]) -> Progress:
    """The Progress that `progress_to_json` wrote."""
    known = {one.name for one in fields(Progress)}
    values = {name: value for name, value in content.items() if name in known}
    failures = values.get("last_failures") or ()
    values["last_failures"] = tuple(Failure(**one) for one in failures)
    if step := values.get("training"):
        values["training"] = TrainStep(**{name: value or 0 for name, value in step.items()})
    if validated := values.get("validated"):
        values["validated"] = Validated(**validated)
    return Progress(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
