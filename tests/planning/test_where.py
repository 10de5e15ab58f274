"""Conditions: what they mean, and that any text is answered with a tree or a named error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.errors import SpecError
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.planning.where import (
    MAX_LENGTH,
    AllOf,
    AnyOf,
    Column,
    Compare,
    Has,
    Not,
    columns_of,
    parse_where,
)

CT = Compare(Column("modality"), "=", "CT")
THIN = Compare(Column("spacing_z"), "<=", 3.0)


def test_and_binds_tighter_than_or() -> None:
    parsed = parse_where("modality = 'CT' or spacing_z <= 3 and modality == \"CT\"")
    assert parsed == AnyOf((CT, AllOf((THIN, CT))))


def test_parentheses_and_not_group() -> None:
    parsed = parse_where("(modality = 'CT' OR spacing_z <= 3) AND NOT has_labels('liver')")
    assert parsed == AllOf((AnyOf((CT, THIN)), Not(Has("labels", "liver"))))
    assert set(columns_of(parsed)) == {"modality", "spacing_z", "labels"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a column"),
        ("modality", "expected one of ="),
        ("weight > 3", "expected a column at 'weight > 3'"),
        ("modality = 3", "expected a text in quotes"),
        ("spacing_z = 'thin'", "spacing_z is a number"),
        ("spacing_z like '3'", "expected one of"),
        ("spacing_z = modality", "not comparable"),
        ("id = 'a' id", "expected 'and', 'or' or the end"),
        ("id = 'a'; drop table", "expected 'and', 'or' or the end|cannot be read"),
        ("id in ('a'", "expected"),
        ("(" * 500 + "id = 'a'", "at most 40 parentheses"),
        ("not " * 500 + "id = 'a'", "at most 40 nots"),
        ("id = '" + "a" * MAX_LENGTH + "'", "at most 4000"),
    ],
)
def test_what_cannot_be_read_is_shown(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse_where(text)


WORDS = st.sampled_from(
    ["id", "spacing_z", "has_labels", "and", "or", "not", "in", "like", "(", ")", ",", "=", "<=",
     "'a'", "3", "-1e9", "%", ";", "'"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=12).map(" ".join)))
def test_any_text_is_answered(text: str) -> None:
    try:
        assert list(columns_of(parse_where(text)))
    except SpecError as error:
        assert "where" in str(error)  # noqa: PT017


def test_a_spec_checks_its_condition_when_it_is_read() -> None:
    with pytest.raises(SpecError, match=r"where.*expected a column"):
        ExportSpec.load(arguments={"archive": "a", "out": "b", "labels": "c", "where": "x = 1"})
