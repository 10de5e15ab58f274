"""Conditions and patterns on columns agree with the same question asked of each row in Python."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.planning.where import parse_where
from unet_batch.storage.filtering import glob_matches, matches

ROWS = pa.RecordBatch.from_pydict(
    {
        "id": ["ct-1", "ct-2", "mr-1"],
        "modality": ["CT", "CT", "MR"],
        "shape_z": pa.array([10, 20, 30], pa.int32()),
        "spacing_z": [1.0, 5.0, 3.0],
        "spacing_x": [1.0, 1.0, 4.0],
        "labels": pa.array([["liver"], [], ["liver", "spleen"]], pa.list_(pa.string())),
        "warnings": pa.array([[], ["channel 0 is constant"], []], pa.list_(pa.string())),
    }
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("modality = 'CT' and spacing_z <= 3", [True, False, False]),
        ("modality != 'CT'", [False, False, True]),
        ("spacing_z > spacing_x", [False, True, False]),
        ("shape_z in (10, 30)", [True, False, True]),
        ("shape_z in (10.5)", [False, False, False]),
        ("id in ('ct-2', 'nothing')", [False, True, False]),
        ("id like 'ct%'", [True, True, False]),
        ("id like '__.1'", [False, False, False]),
        ("has_labels('liver')", [True, False, True]),
        ("not has_labels('spleen')", [True, True, False]),
        ("has_labels('live')", [False, False, False]),
        ("has_warning('constant') or shape_z >= 30", [False, True, True]),
    ],
)
def test_a_condition_chooses_rows(where: str, expected: list[bool]) -> None:
    assert matches(parse_where(where), ROWS).tolist() == expected


NAMES = st.text("ab[]!*?^-\\.", max_size=6)


@given(st.lists(NAMES, max_size=2), st.lists(NAMES, min_size=1, max_size=5))
def test_patterns_match_as_fnmatch_does(patterns: list[str], ids: list[str]) -> None:
    expected = [any(fnmatchcase(one, p) for p in patterns) for one in ids]
    usual = [p for p in patterns if "[" not in p]  # brackets: see below
    if usual == patterns:
        assert glob_matches(patterns, pa.array(ids)).tolist() == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("ct-[12]", [True, True, False]), ("ct-[!1]", [False, True, False]), ("*[", [False] * 3)],
)
def test_brackets_are_sets_of_characters(pattern: str, expected: list[bool]) -> None:
    assert glob_matches([pattern], ROWS["id"]).tolist() == expected
