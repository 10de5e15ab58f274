"""Conditions of `--where` evaluated on columns of the Catalog: vectorised, nothing decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_batch.planning.where import (
    AllOf,
    Among,
    AnyOf,
    Column,
    Compare,
    Condition,
    Has,
    Like,
    Not,
)

Rows = NDArray[np.bool_]
"""Which rows hold."""

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def matches(condition: Condition, batch: pa.RecordBatch) -> Rows:
    """Which rows of `batch`, which has the columns of `columns_of(condition)`, hold."""
    match condition:
        case Compare(left, operator, right):
            value = batch[right.name] if isinstance(right, Column) else pa.scalar(right)
            return _numpy(_COMPARE[operator](batch[left.name], value))
        case Among(column, values):
            field = batch[column.name]
            wanted = pa.array(values) if column.is_text else pa.array(values, pa.float64())
            return _numpy(pc.is_in(field.cast(wanted.type), value_set=wanted))
        case Like(column, pattern):
            return _numpy(pc.match_like(batch[column.name], pattern))
        case Has(name, value):
            return _has(batch[name], value, within=name == "warnings")
        case Not(inner):
            return ~matches(inner, batch)
        case AllOf(conditions):
            return reduce(np.logical_and, (matches(one, batch) for one in conditions))
        case AnyOf(conditions):
            return reduce(np.logical_or, (matches(one, batch) for one in conditions))


def glob_matches(patterns: Iterable[str], ids: pa.Array) -> Rows:
    """Which `ids` match one of the glob `patterns` (*, ?, [abc], [!abc])."""
    patterns = list(patterns)
    if "*" in patterns:
        return np.ones(len(ids), dtype=bool)
    exact = [p for p in patterns if not set(p) & set("*?[")]
    found = _numpy(pc.is_in(ids, value_set=pa.array(exact, pa.string())))
    for pattern in set(patterns) - set(exact):
        found |= _numpy(pc.match_substring_regex(ids, _regex(pattern)))
    return found


def _regex(pattern: str) -> str:
    """`fnmatch.translate` in RE2's dialect, whose matching is linear in the text."""
    parts, position = [], 0
    while position < len(pattern):
        sign = pattern[position]
        end = pattern.find("]", position + 2)
        if sign == "[" and end > 0:
            negated = pattern[position + 1] == "!"
            members = pattern[position + 1 + negated : end].replace("\\", "\\\\")
            members = members.replace("[", "\\[").replace("^", "\\^").replace("]", "\\]")
            parts.append(f"[{'^' * negated}{members}]")
            position = end
        else:
            parts.append({"*": ".*", "?": "."}.get(sign) or _escaped(sign))
        position += 1
    return f"^(?s:{''.join(parts)})$"


def _escaped(sign: str) -> str:
    return sign if sign.isalnum() or sign == "_" or ord(sign) > 127 else f"\\{sign}"


def _has(lists: pa.ListArray, value: str, *, within: bool) -> Rows:
    flat = lists.flatten()
    held = _numpy(pc.match_substring(flat, value) if within else pc.equal(flat, value))
    rows = np.zeros(len(lists), dtype=bool)
    rows[pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)[held]] = True
    return rows


def _numpy(array: pa.BooleanArray) -> Rows:
    rows: Rows = np.array(array.to_numpy(zero_copy_only=False), dtype=bool)
    return rows
