"""The little language of `--where`: which rows of the Catalog a Job runs on.

    modality = 'CT' and spacing_z <= 3
    has_labels('liver') and not (shape_z < 40 or id like 'phantom%')
    dtype in ('int16', 'uint16') and spacing_z > spacing_x

A text becomes a small tree of the nodes below and nothing else: no code, no SQL, no regular
expressions. Length and depth are bounded, so any text is answered at once. What evaluates the
tree on the Catalog's columns is `storage.filtering`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from unet_batch.errors import SpecError

MAX_LENGTH = 4000
MAX_DEPTH = 40

TEXT_COLUMNS = ("id", "modality", "dtype", "content_hash")
NUMBER_COLUMNS = (
    "num_channels", "num_voxels", "num_nonfinite", "num_labels", "num_warnings",
    "shape_z", "shape_y", "shape_x", "spacing_z", "spacing_y", "spacing_x",
)  # fmt: skip
LIST_COLUMNS = {"has_labels": "labels", "has_channel": "channels", "has_warning": "warnings"}
"""What each function looks through."""

_OPERATORS = {"==": "=", "<>": "!="}
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<number>-?\d+\.?\d*(?:[eE][-+]?\d+)?)"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign><=|>=|<>|!=|==|[=<>(),]))"
)

Literal = str | float
"""Texts and numbers."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of texts or numbers, by name."""

    name: str

    @property
    def is_text(self) -> bool:
        """Whether it holds texts."""
        return self.name in TEXT_COLUMNS


@dataclass(frozen=True, slots=True)
class Compare:
    """`left` `operator` `right`, the operator being one of = != < <= > >=."""

    left: Column
    operator: str
    right: Column | Literal


@dataclass(frozen=True, slots=True)
class Among:
    """Whether the column is one of `values`."""

    column: Column
    values: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """Whether the column matches `pattern`: % stands for any text, _ for any character."""

    column: Column
    pattern: str


@dataclass(frozen=True, slots=True)
class Has:
    """Whether the list `column` holds `value`; warnings: whether one of them contains it."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of `condition`."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class AllOf:
    """Whether all `conditions` hold."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Whether one of `conditions` holds."""

    conditions: tuple[Condition, ...]


Condition = Compare | Among | Like | Has | Not | AllOf | AnyOf


def parse_where(text: str) -> Condition:
    """The tree of `text`.

    Raises SpecError that shows the place, what was expected there, and the known columns.

    >>> parse_where("spacing_z <= 3")
    Compare(left=Column(name='spacing_z'), operator='<=', right=3.0)
    """
    if len(text) > MAX_LENGTH:
        raise SpecError(f"where: {len(text)} characters, at most {MAX_LENGTH} are allowed")
    parser = _Parser(text)
    condition = parser.any_of(depth=0)
    if parser.kind:
        raise parser.error("expected 'and', 'or' or the end")
    return condition


def columns_of(condition: Condition) -> Iterator[str]:
    """Names of the columns that `condition` looks at."""
    match condition:
        case Compare(left, _, right):
            yield left.name
            if isinstance(right, Column):
                yield right.name
        case Among(column, _) | Like(column, _):
            yield column.name
        case Has(name, _):
            yield name
        case Not(inner):
            yield from columns_of(inner)
        case AllOf(conditions) | AnyOf(conditions):
            for one in conditions:
                yield from columns_of(one)


def _checked(text: str) -> str:
    try:
        parse_where(text)
    except SpecError as error:
        raise ValueError(str(error)) from error
    return text


WhereField = Annotated[
    Annotated[str, AfterValidator(_checked)] | None,
    Field(description="condition on the Catalog, such as modality = 'CT' and spacing_z <= 3"),
]
"""The `where` of a Spec, checked when the Spec is read."""


class _Parser:
    """Recursive descent over one token of lookahead (`kind` is empty at the end)."""

    def __init__(self, text: str) -> None:
        self._text, self._next = text, 0
        self.kind = self.word = ""
        self._start = 0
        self._advance()

    def any_of(self, *, depth: int) -> Condition:
        """or-joined conditions."""
        if depth > MAX_DEPTH:
            raise self.error(f"expected at most {MAX_DEPTH} parentheses and nots inside each other")
        conditions = [self._all_of(depth)]
        while self._take("word", "or"):
            conditions.append(self._all_of(depth))
        return conditions[0] if len(conditions) == 1 else AnyOf(tuple(conditions))

    def _all_of(self, depth: int) -> Condition:
        conditions = [self._one(depth)]
        while self._take("word", "and"):
            conditions.append(self._one(depth))
        return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))

    def _one(self, depth: int) -> Condition:
        if self._take("word", "not"):
            if depth >= MAX_DEPTH:
                raise self.error(f"expected at most {MAX_DEPTH} nots inside each other")
            return Not(self._one(depth + 1))
        if self._take("sign", "("):
            condition = self.any_of(depth=depth + 1)
            self._expect("sign", ")")
            return condition
        if self.word.lower() in LIST_COLUMNS:
            return self._has()
        return self._comparison(self._column())

    def _has(self) -> Has:
        column = LIST_COLUMNS[self._pop("word").lower()]
        self._expect("sign", "(")
        value = self._string()
        self._expect("sign", ")")
        return Has(column, value)

    def _comparison(self, column: Column) -> Condition:
        if self._take("word", "in"):
            return Among(column, self._values(column))
        if column.is_text and self._take("word", "like"):
            return Like(column, self._string())
        if self.kind != "sign" or self.word in "(),":
            raise self.error("expected one of = != < <= > >= in" + " like" * column.is_text)
        sign = self._pop("sign")
        return Compare(column, _OPERATORS.get(sign, sign), self._operand(column))

    def _values(self, column: Column) -> tuple[Literal, ...]:
        self._expect("sign", "(")
        values = [self._literal(column)]
        while self._take("sign", ","):
            values.append(self._literal(column))
        self._expect("sign", ")")
        return tuple(values)

    def _operand(self, column: Column) -> Column | Literal:
        if self.kind != "word":
            return self._literal(column)
        other = self._column()
        if other.is_text != column.is_text:
            raise self.error(f"{column.name} and {other.name} are not comparable; before this")
        return other

    def _literal(self, column: Column) -> Literal:
        if column.is_text:
            return self._string()
        if self.kind != "number":
            raise self.error(f"{column.name} is a number: expected a number")
        return float(self._pop("number"))

    def _string(self) -> str:
        if self.kind != "text":
            raise self.error("expected a text in quotes, such as 'CT'")
        return self._pop("text")[1:-1]

    def _column(self) -> Column:
        if self.kind != "word" or self.word not in (*TEXT_COLUMNS, *NUMBER_COLUMNS):
            raise self.error("expected a column")
        return Column(self._pop("word"))

    def _take(self, kind: str, token: str) -> bool:
        found = self.kind == kind and self.word.lower() == token
        if found:
            self._advance()
        return found

    def _expect(self, kind: str, token: str) -> None:
        if not self._take(kind, token):
            raise self.error(f"expected {token!r}")

    def _pop(self, kind: str) -> str:
        token = self.word
        if self.kind != kind:
            raise self.error(f"expected a {kind}")
        self._advance()
        return token

    def _advance(self) -> None:
        rest = self._text[self._next :]
        self._start = self._next + len(rest) - len(rest.lstrip())
        if not rest.strip():
            self.kind = self.word = ""
            return
        found = _TOKEN.match(self._text, self._next)
        if found is None:
            self.kind = self.word = ""
            raise self.error("cannot be read")
        self.kind = str(found.lastgroup)
        self.word = found[self.kind]
        self._next = found.end()

    def error(self, problem: str) -> SpecError:
        """A SpecError that shows where in the text `problem` is."""
        place = self._text[self._start : self._start + 30] or "the end"
        return SpecError(
            f"where {self._text[:200]!r}: {problem} at {place!r}; columns are "
            f"{', '.join((*TEXT_COLUMNS, *NUMBER_COLUMNS))}, functions "
            f"{', '.join(LIST_COLUMNS)}"
        )
