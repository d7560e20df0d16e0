"""The condition of `--where`: a small language of comparisons, which every store gets in its own form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from math import isfinite
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Literal

import pyarrow as pa
import sqlglot
from sqlglot import errors, expressions
from vitriton import VitritonError

Value = str | int | float | bool | datetime
Operator = Literal["=", "!=", "<", "<=", ">", ">="]


class WhereError(VitritonError, ValueError):
    """The text of a condition cannot be understood; the message says what is wrong and which columns there are."""


@dataclass(frozen=True)
class Compare:
    """A column compared with a value; never true for a row without a value."""

    column: str
    operator: Operator
    value: Value


@dataclass(frozen=True)
class OneOf:
    """A column that has one of several values."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Like:
    """A column of texts that match a pattern as a whole; case counts.

    In the pattern, % is any text and _ any character; after a backslash, %, _ and a backslash are themselves.
    """

    column: str
    pattern: str


@dataclass(frozen=True)
class Missing:
    """A column without a value."""

    column: str


@dataclass(frozen=True)
class Not:
    """A condition that is not met."""

    condition: Where


@dataclass(frozen=True)
class Both:
    """Two conditions that are both met."""

    left: Where
    right: Where


@dataclass(frozen=True)
class Either:
    """Two conditions of which one is met, or both."""

    left: Where
    right: Where


Where = Compare | OneOf | Like | Missing | Not | Both | Either

_OPERATORS: Mapping[type[expressions.Expr], Operator] = {
    expressions.EQ: "=",
    expressions.NEQ: "!=",
    expressions.LT: "<",
    expressions.LTE: "<=",
    expressions.GT: ">",
    expressions.GTE: ">=",
}
_MIRRORED: Mapping[Operator, Operator] = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARISONS: Mapping[Operator, Callable[[Any, Any], Any]] = {
    "=": eq,
    "!=": ne,
    "<": lt,
    "<=": le,
    ">": gt,
    ">=": ge,
}
_LANGUAGE = "a condition has comparisons, in, like, between, is null, and, or, not, and columns on one side of each"
_TEXTS = "texts are in '…', and names with spaces or dashes in \"…\""


def parse(text: str, columns: Mapping[str, pa.DataType]) -> Where:
    """Parses a condition such as `width > 1000 and source like '%/2025/%'`.

    Args:
        text: the condition.
        columns: the columns that it may name, with their types.

    Raises:
        WhereError: the text is no condition, names a column that is not there, or compares it with another type.
    """
    try:
        return _Reader(text, columns).read(sqlglot.parse_one(text))
    except errors.SqlglotError as exc:
        found = exc.errors[0].get("highlight") if isinstance(exc, errors.ParseError) and exc.errors else None
        where = f" near {found}" if found else ""
        raise WhereError(f"{text!r} is no condition{where}; {_LANGUAGE}; {_TEXTS}") from None
    except RecursionError:
        raise WhereError(f"the condition {text[:60]!r}… is nested too deep") from None


class _Reader:
    """Turns a tree of sqlglot into a condition."""

    def __init__(self, text: str, columns: Mapping[str, pa.DataType]) -> None:
        self._text = text
        self._columns = columns

    def read(self, tree: expressions.Expr) -> Where:
        tree = tree.unnest()
        if isinstance(tree, expressions.And):
            return Both(self.read(tree.left), self.read(tree.right))
        if isinstance(tree, expressions.Or):
            return Either(self.read(tree.left), self.read(tree.right))
        if isinstance(tree, expressions.Not):
            return Not(self.read(tree.this))
        found = self._comparison(tree)
        return Not(found) if tree.args.get("negate") else found  # `x not like …`, in some versions

    def _comparison(self, tree: expressions.Expr) -> Where:
        if type(tree) in _OPERATORS:
            return self._compare(tree)
        if isinstance(tree, expressions.Is) and isinstance(tree.expression, expressions.Null):
            return Missing(self._column(tree.this))
        if isinstance(tree, expressions.Between) and not tree.args.get("symmetric"):
            column = self._column(tree.this)
            low, high = (self._value(column, tree.args[side]) for side in ("low", "high"))
            return Both(self._ordered(column, ">=", low), self._ordered(column, "<=", high))
        if isinstance(tree, expressions.In) and tree.expressions:
            column = self._column(tree.this)
            return OneOf(column, tuple(self._value(column, value) for value in tree.expressions))
        if isinstance(tree, expressions.Like):
            column = self._column(tree.this)
            if not pa.types.is_string(self._columns[column]):
                raise self._error(f"{column} holds {self._columns[column]}, and like is for text")
            return Like(column, _escaped(str(self._value(column, tree.expression))))
        raise self._error(f"{tree.sql()} is not understood; {_LANGUAGE}")

    def _compare(self, tree: expressions.Expr) -> Where:
        left, right = tree.this.unnest(), tree.expression.unnest()
        operator = _OPERATORS[type(tree)]
        if isinstance(right, expressions.Column) and not isinstance(left, expressions.Column):
            left, right, operator = right, left, _MIRRORED[operator]
        column = self._column(left)
        return self._ordered(column, operator, self._value(column, right))

    def _ordered(self, column: str, operator: Operator, value: Value) -> Where:
        if isinstance(value, bool) and operator not in ("=", "!="):
            raise self._error(f"{column} holds true or false, which are compared by = and !=")
        return Compare(column, operator, value)

    def _column(self, tree: expressions.Expr) -> str:
        tree = tree.unnest()
        if not isinstance(tree, expressions.Column) or tree.table:
            raise self._error(f"{tree.sql()} is no column; {_LANGUAGE}")
        if tree.name not in self._columns:
            raise self._error(f"{tree.name} is no column; there are {', '.join(self._columns)}; {_TEXTS}")
        return str(tree.name)

    def _value(self, column: str, tree: expressions.Expr) -> Value:
        value, kind = _literal(tree.unnest()), self._columns[column]
        if value is None:
            raise self._error(f"{tree.sql()} is no value; {_LANGUAGE}; {_TEXTS}")
        if pa.types.is_timestamp(kind):
            return self._date(column, value)
        if pa.types.is_floating(kind) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if pa.types.is_integer(kind) and isinstance(value, float) and value.is_integer():
            value = int(value)
        fits, wanted = _expected(kind)
        if not fits(value):
            raise self._error(f"{column} holds {wanted}, and {tree.sql()} is none")
        return value

    def _date(self, column: str, value: Value) -> datetime:
        zoned = self._columns[column].tz is not None
        try:
            found = datetime.fromisoformat(str(value))
            if zoned:
                return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)
        except (ValueError, OverflowError):
            raise self._error(f"{value!r} is no date; write {column} as '2025-12-31', or with a time") from None
        if found.tzinfo is not None:
            raise self._error(f"{column} has no time zone; write {value!r} without one")
        return found

    def _error(self, reason: str) -> WhereError:
        return WhereError(f"{self._text!r}: {reason}")


def _literal(tree: expressions.Expr) -> str | int | float | bool | None:
    if isinstance(tree, expressions.Neg):
        value = _literal(tree.this)
        return -value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if isinstance(tree, expressions.Boolean):
        return bool(tree.this)
    if not isinstance(tree, expressions.Literal):
        return None
    if tree.is_string:
        return str(tree.this)
    try:
        return int(tree.this)
    except ValueError:
        return float(tree.this)


def _escaped(pattern: str) -> str:
    """The pattern with every backslash before %, _ or another one, so that it means the same everywhere."""
    return re.sub(r"\\([%_\\])|\\", lambda found: found[0] if found[1] else r"\\", pattern)


def _expected(kind: pa.DataType) -> tuple[Callable[[Value], bool], str]:
    """Whether a value can be compared with a column's, and what the column holds."""
    if pa.types.is_string(kind):
        return (lambda value: isinstance(value, str)), "text"
    if pa.types.is_boolean(kind):
        return (lambda value: isinstance(value, bool)), "true or false"
    if pa.types.is_integer(kind):
        end = 2 ** (kind.bit_width - 1)
        return (lambda value: type(value) is int and -end <= value < end), f"whole numbers from {-end} to {end - 1}"
    return (lambda value: isinstance(value, float) and isfinite(value)), "numbers"


def columns_of(where: Where) -> Iterator[str]:
    """Yields the columns that a condition names."""
    if isinstance(where, Not):
        yield from columns_of(where.condition)
    elif isinstance(where, (Both, Either)):
        yield from columns_of(where.left)
        yield from columns_of(where.right)
    else:
        yield where.column


def meets(where: Where, row: Mapping[str, Any]) -> bool | None:
    """Whether a row meets a condition: what every store answers, by SQL's three values.

    Args:
        where: the condition.
        row: the values of the columns that the condition names, as Python's.

    Returns:
        None: it cannot be said, as the row lacks a value; such a row is not among those that meet the condition.
    """
    if isinstance(where, Not):
        met = meets(where.condition, row)
        return None if met is None else not met
    if isinstance(where, (Both, Either)):
        decisive = isinstance(where, Either)  # one side with this value is enough, whatever the other's
        sides = (meets(where.left, row), meets(where.right, row))
        return decisive if decisive in sides else None if None in sides else not decisive
    value = row[where.column]
    if isinstance(where, Missing):
        return value is None
    if value is None:
        return None
    if isinstance(where, Like):
        return re.fullmatch(_regular(where.pattern), value, re.DOTALL) is not None
    if isinstance(where, OneOf):
        return value in where.values
    return bool(_COMPARISONS[where.operator](value, where.value))


def _regular(pattern: str) -> str:
    """The regular expression of a pattern of `like`."""
    parts = re.findall(r"\\[%_\\]|.", pattern, re.DOTALL)
    return "".join({"%": ".*", "_": "."}.get(part) or re.escape(part[-1]) for part in parts)


def to_sql(where: Where, name: Callable[[str], str], literal: Callable[[Value], str]) -> str:
    """Writes a condition in SQL.

    Args:
        where: the condition.
        name: the function that quotes the name of a column.
        literal: the function that quotes a value, or puts it aside and returns its placeholder.
    """
    if isinstance(where, Not):
        return f"(NOT {to_sql(where.condition, name, literal)})"
    if isinstance(where, (Both, Either)):
        word = " AND " if isinstance(where, Both) else " OR "
        return f"({word.join(to_sql(part, name, literal) for part in chain(where))})"
    column = name(where.column)
    if isinstance(where, Missing):
        return f"({column} IS NULL)"
    if isinstance(where, Like):
        return f"({column} LIKE {literal(where.pattern)})"
    if isinstance(where, OneOf):
        return f"({column} IN ({', '.join(map(literal, where.values))}))"
    return f"({column} {where.operator} {literal(where.value)})"


def chain(where: Both | Either) -> list[Where]:
    """The conditions that are joined by the same word: databases count levels of parentheses."""
    parts: list[Where] = []
    waiting: list[Where] = [where]
    while waiting:
        part = waiting.pop()
        if type(part) is type(where):
            waiting += (part.right, part.left)
        else:
            parts.append(part)
    return parts
